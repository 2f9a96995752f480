"""What vLLM cannot do with a step, said before anything is downloaded.

Sources: vLLM's quantisation layer (`get_min_capability`, `get_supported_act_dtypes`) and its configuration checks.
"""

from __future__ import annotations

from collections.abc import Iterator

from qwend.plugin import Finding, Gpu, Host, StepView
from qwend_plugins.serving import adapter_findings
from qwend_plugins.vllm.common import context, parallel
from qwend_plugins.vllm.params import EngineParams, ServeParams

_FLOORS = {"model/awq": (7, 5), "awq": (7, 5), "awq_marlin": (7, 5), "gptq_marlin": (7, 5), "fp8": (7, 5)}
"""Least compute capability by artifact type or `quantization`."""
_PACKED = ("model/awq", "model/gptq")
_BFLOAT16 = (8, 0)


def engine_findings(step: StepView, host: Host, params: EngineParams) -> Iterator[Finding]:
    """What serving and batches check alike."""
    yield from _quantised(step, host, params)
    yield from _number_formats(step, host, params)
    yield from _share(step, params)
    yield from _cards(step, params)
    yield from _context(step, params)
    yield from _flavour(step, params)


def serve_findings(step: StepView, host: Host, params: ServeParams) -> Iterator[Finding]:
    """What only a server checks."""
    yield from adapter_findings(step.inputs[0], step.given.get("lora", ()), "with.lora")
    if params.enable_auto_tool_choice and params.tool_call_parser is None:
        yield Finding(
            "somebody has to read the calls: enable_auto_tool_choice needs a tool_call_parser",
            "with.enable_auto_tool_choice",
            "tool_call_parser: hermes is right for Qwen2.5 and Qwen3",
        )
    if params.tool_call_parser is not None and not params.enable_auto_tool_choice:
        yield Finding(
            "tools are called only where a request names one, unless enable_auto_tool_choice is true",
            "with.tool_call_parser",
            level="warning",
        )
    yield from _nodes(params)


def _devices(step: StepView, host: Host) -> list[Gpu]:
    """The cards that the step may get: all of the machine, since the lease chooses later."""
    return [] if step.flavour == "cpu" else list(host.gpus)


def _quantised(step: StepView, host: Host, params: EngineParams) -> Iterator[Finding]:
    kind = step.inputs[0].type
    key, name = ("from", kind) if kind in _FLOORS else ("with.quantization", params.quantization or "")
    floor = _FLOORS.get(name)
    for gpu in _devices(step, host):
        if floor is not None and gpu.capability is not None and gpu.capability < floor:
            what = name.removeprefix("model/").upper() if name.startswith("model/") else name
            yield Finding(
                f"{what} needs compute capability {_dotted(floor)}; gpu {gpu.index} ({gpu.name}) has "
                f"{_dotted(gpu.capability)}",
                key,
                "GPTQ runs on older cards (gptq/quantize), and so does the unquantised model with dtype: half",
            )
            return
    method = {"model/awq": ("awq", "awq_marlin", "moe_wna16"), "model/gptq": ("gptq", "gptq_marlin", "moe_wna16"),
              "model/compressed-tensors": ("compressed-tensors",)}.get(kind)  # fmt: skip
    if method is not None and params.quantization is not None and params.quantization not in method:
        yield Finding(
            f"{step.inputs[0].name} is quantised in another way ({kind})",
            "with.quantization",
            "leave it out: config.json says it",
        )


def _number_formats(step: StepView, host: Host, params: EngineParams) -> Iterator[Finding]:
    kind = step.inputs[0].type
    if kind in _PACKED and params.dtype in ("float", "float32"):
        yield Finding(f"{kind} works in 16 bits only", "with.dtype", "dtype: half")
    for gpu in _devices(step, host):
        if params.dtype == "bfloat16" and gpu.capability is not None and gpu.capability < _BFLOAT16:
            yield Finding(
                f"bfloat16 needs compute capability 8.0; gpu {gpu.index} ({gpu.name}) has {_dotted(gpu.capability)}",
                "with.dtype",
                "dtype: half",
            )
            return
        old = gpu.capability is not None and gpu.capability < _BFLOAT16
        if old and params.kv_cache_dtype.startswith("fp8"):
            yield Finding(
                f"a cache in {params.kv_cache_dtype} needs compute capability 8.0; gpu {gpu.index} has "
                f"{_dotted(gpu.capability or (0, 0))}",
                "with.kv_cache_dtype",
            )
            return
    plain_kernels = params.quantization in ("awq", "gptq") or (kind in _PACKED and step.flavour == "cuda12")
    if kind in _PACKED and params.dtype == "bfloat16" and plain_kernels and step.flavour != "cpu":
        yield Finding(
            f"the plain kernels of {kind.removeprefix('model/').upper()} work in half precision only",
            "with.dtype",
            "dtype: half",
        )


def _share(step: StepView, params: EngineParams) -> Iterator[Finding]:
    said = params.gpu_memory_utilization
    if said is None or step.flavour == "cpu":
        return
    if said > step.gpu_share:
        yield Finding(
            f"gpu_memory_utilization {said:g} is more than the step's gpu_share of {step.gpu_share:g}",
            "with.gpu_memory_utilization",
            "leave it out: it follows from gpu_share",
        )
    elif step.gpu_share == 1 and said <= 0.5:
        yield Finding(
            f"takes {said:g} of each card, and leases all of it: nothing else can share it",
            "with.gpu_memory_utilization",
            f"say gpu_share: {said:g} instead, beside with:",
            level="warning",
        )


def _cards(step: StepView, params: EngineParams) -> Iterator[Finding]:
    if step.flavour == "cpu":
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
            if (getattr(params, name) or 1) > 1:
                yield Finding(
                    "this step runs on the CPU, where there are no cards to share work", f"with.{name}"
                )
        return
    nodes = params.nnodes if isinstance(params, ServeParams) else 1
    tensor = parallel(step, params)
    want = tensor * params.pipeline_parallel_size * params.data_parallel_size
    if want != step.gpus * nodes:
        said = " x ".join(
            f"{getattr(params, name)}"
            for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
            if (getattr(params, name) or 1) > 1
        )
        here = f"{step.gpus} on each of {nodes} machines" if nodes > 1 else f"{step.gpus}"
        yield Finding(
            f"needs {want} cards ({said or want}), and the step leases {here}",
            "with.tensor_parallel_size" if params.tensor_parallel_size else "gpus",
            f"say gpus: {-(-want // nodes)}, or leave tensor_parallel_size out: it follows from gpus",
        )
    heads = step.inputs[0].facts.heads
    if heads is not None and heads % tensor:
        fits = [size for size in range(1, tensor) if heads % size == 0]
        yield Finding(
            f"{heads} attention heads cannot be split among {tensor} cards",
            "with.tensor_parallel_size" if params.tensor_parallel_size else "gpus",
            f"{fits[-1]} divides them" if fits else None,
        )
    layers = step.inputs[0].facts.layers
    if layers is not None and params.pipeline_parallel_size > layers:
        yield Finding(f"the model has {layers} layers only", "with.pipeline_parallel_size")


def _context(step: StepView, params: EngineParams) -> Iterator[Finding]:
    trained, wanted = step.inputs[0].facts.context, params.max_model_len
    scaling = params.rope_scaling
    if trained is None:
        return
    reach = trained if scaling is None else int(trained * scaling.factor)
    if wanted is not None and wanted > reach:
        factor = -(-wanted // trained)
        by = f", scaled by {scaling.factor:g}" if scaling is not None else ""
        yield Finding(
            f"a context of {wanted} is beyond what the model was trained for ({trained}){by}",
            "with.max_model_len",
            f"YaRN stretches it: rope_scaling: {{factor: {factor}.0}}",
        )
    if scaling is not None and (context(step, params) or 0) <= trained:
        yield Finding(
            f"a context of {context(step, params)} needs no scaling, which makes short texts a little worse",
            "with.rope_scaling",
            "say how long it shall be: max_model_len",
            level="warning",
        )


def _flavour(step: StepView, params: EngineParams) -> Iterator[Finding]:
    if params.swap_space is not None and step.flavour != "cuda12":
        yield Finding(
            "this version of vLLM swaps nothing; it has another way",
            "with.swap_space",
            "kv_offloading_size: 8",
        )
    if step.flavour == "cuda12":
        for name, hint in _too_new(params):
            yield Finding("the cuda12 build (vLLM 0.10) is too old for it", f"with.{name}", hint)
    for name in ("gpu_memory_utilization", "kv_offloading_size", "cpu_offload_gb"):
        if step.flavour == "cpu" and getattr(params, name) is not None:
            yield Finding(
                "this step runs on the CPU", f"with.{name}", "cpu_kvcache_space says what the cache may take"
            )
    if params.cpu_kvcache_space is not None and step.flavour != "cpu":
        yield Finding("this step runs on cards", "with.cpu_kvcache_space", "gpu_memory_utilization")


def _too_new(params: EngineParams) -> Iterator[tuple[str, str]]:
    """Parameters whose flag or value vLLM 0.10 does not know, and what does."""
    if params.kv_offloading_size is not None:
        yield "kv_offloading_size", "swap_space: 8"
    if params.kv_cache_dtype == "bfloat16":
        yield "kv_cache_dtype", "auto is the model's own"
    if params.max_lora_rank == 1:
        yield "max_lora_rank", "8 is its least"
    if isinstance(params, ServeParams):
        if params.chat_template_kwargs:
            yield "chat_template_kwargs", "send them with each request, or bring a chat_template"
        if params.nnodes > 1 and params.distributed_executor_backend != "ray":
            yield "nnodes", "distributed_executor_backend: ray"


def _nodes(params: ServeParams) -> Iterator[Finding]:
    if params.node_rank >= params.nnodes:
        yield Finding(f"ranks of {params.nnodes} machines are 0 to {params.nnodes - 1}", "with.node_rank")
    if params.nnodes > 1 and params.master_addr is None:
        yield Finding(
            "several machines need a place to meet", "with.nnodes", "master_addr: the address of rank 0"
        )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
