"""Words of vLLM's command line, its memory, and what its last words mean."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from qwend.plugin import (
    DriverRef,
    Given,
    Image,
    InputRef,
    Join,
    LaunchFile,
    LogHint,
    Resources,
    StepView,
    Word,
    cache_bytes,
    driver,
    load_image,
)
from qwend_plugins.serving import GIB, answering, flags
from qwend_plugins.serving.batches import DRIVERS as SHARED
from qwend_plugins.vllm.params import EngineParams

DRIVERS = Path(__file__).parent / "drivers"
FLAVOURS = ("cpu", "cuda", "cuda12")
MODELS = ("model/safetensors", "model/compressed-tensors", "model/awq", "model/gptq")
TEMPLATE = "chat_template.jinja"
DEFAULT_CONTEXT = 8192

_CPU_LIBRARIES = 5 * GIB // 2
"""Resident sets of the server and the engine process with torch and vLLM imported (measured: 2.3 GiB together)."""
_GPU_LIBRARIES = 3 * GIB
_SHM, _SHM_ALONE = 8 * GIB, GIB
"""Shared memory through which the workers of several cards speak; and a server with its only one: its queue takes 160
MiB, of which a container has 64 unless more is asked for."""

ENGINE_FLAGS = (
    "dtype", "quantization", "max_num_seqs", "max_num_batched_tokens", "distributed_executor_backend",
    "kv_cache_dtype", "swap_space", "kv_offloading_size", "cpu_offload_gb", "enable_prefix_caching",
    "enable_chunked_prefill", "seed", "generation_config", "max_lora_rank",
)  # fmt: skip
"""Parameters that are passed on as they are."""

HINTS = (
    LogHint(
        r"error: unrecognized arguments: (?P<words>.+)",
        "vLLM does not know {words}",
        "qwend plugins ls vllm/serve lists the parameters; extra_args takes what this version knows",
    ),
    LogHint(
        r"vllm(?: serve)?: error: (?:argument )?(?P<why>.+)",
        "vLLM refuses its arguments: {why}",
    ),
    LogHint(
        r"max seq len \((?P<asked>[\d,]+)\) is larger than the maximum number of tokens that can be stored in KV cache "
        r"\((?P<room>[\d,]+)\)",
        "the key/value cache has room for {room} tokens, and max_model_len is {asked}",
        "lower max_model_len, or give vLLM more of the card: gpu_memory_utilization",
    ),
    LogHint(
        r"(?:estimated maximum model length is|maximum model length that fits is) (?P<room>[\d,]+)",
        "the context does not fit into the memory that is left for the key/value cache",
        "say max_model_len: {room}",
    ),
    LogHint(
        r"No available memory for the cache blocks",
        "the weights leave no memory for the key/value cache",
        "give vLLM more of the card (gpu_memory_utilization), more cards, or a smaller or quantised model",
    ),
    LogHint(
        r"Free memory on device .{0,80}?\((?P<free>[\d.]+)/(?P<all>[\d.]+) ?GiB\) on startup is less than desired",
        "only {free} of {all} GiB of the card are free",
        "other programs hold the rest: nvidia-smi names them; or lower gpu_memory_utilization",
    ),
    LogHint(
        r"[Nn]umber of attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size \((?P<size>\d+)\)",
        "{heads} attention heads cannot be split among {size} cards",
        "take a number of cards that divides them",
    ),
    LogHint(
        r"max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len \(.*?=(?P<trained>\d+)",
        "a context of {asked} is beyond what the model was trained for ({trained})",
        "YaRN stretches it: rope_scaling: {{factor: 4.0}}",
    ),
    LogHint(
        r"[Bb]float16 is only supported on GPUs with compute capability of at least 8\.0",
        "this card has no bfloat16",
        "dtype: half",
    ),
    LogHint(
        r"quantization method (?P<method>\S+) is not supported for the current GPU.*?Minimum capability: (?P<need>\d+)",
        "{method} needs a card of compute capability {need} (75 is 7.5)",
        "GPTQ runs on older cards; or serve the unquantised model with dtype: half",
    ),
    LogHint(
        r"torch\.(?P<dtype>\w+) is not supported for quantization method (?P<method>\S+?)\.",
        "{method} does not work in {dtype}",
        "dtype: half",
    ),
    LogHint(
        r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank (?P<most>\d+)",
        "an adapter has rank {rank}, and max_lora_rank is {most}",
        "leave max_lora_rank out: it is read from the adapters",
    ),
    LogHint(
        r"(?:CUDA out of memory|torch\.OutOfMemoryError|CUDA error: out of memory)",
        "the memory of the card does not suffice",
        "lower max_model_len or max_num_seqs, take more cards, or a quantised model",
    ),
    LogHint(
        r"(?:DefaultCPUAllocator: can't allocate memory|std::bad_alloc|MemoryError)",
        "the memory of the machine does not suffice",
        "lower max_model_len or cpu_kvcache_space, or take a smaller model",
    ),
    LogHint(
        r"Model architectures (?P<architecture>\[[^\]]*\]) (?:are not supported|failed to be inspected)",
        "this vLLM does not know the architecture {architecture}",
        "transformers/serve may; or upgrade the image: qwend images lock vllm --upgrade vllm",
    ),
    LogHint(
        r"^(?!.*Found ulimit of).*?\b(?!RuntimeError: Engine)"
        r"(?P<kind>ValueError|RuntimeError|NotImplementedError|KeyError|TypeError|OSError"
        r"|AssertionError|ImportError|AttributeError|ValidationError): (?P<why>(?!Engine core).{4,300})$",
        "vLLM says: {why}",
    ),
)
"""Best first: the last is whatever exception comes first in the log, since those after it only follow from it (a
warning on the number of open files spells one out, and is none)."""


def image(step: StepView) -> Image:
    return load_image("qwend_images:vllm", step.flavour)


def parallel(step: StepView, params: EngineParams) -> int:
    """Cards that share each layer: what the recipe says, else what the lease leaves for it."""
    if params.tensor_parallel_size is not None:
        return params.tensor_parallel_size
    return max(1, step.gpus // (params.pipeline_parallel_size * params.data_parallel_size))


def utilization(step: StepView, params: EngineParams) -> float | None:
    """The share of each card that vLLM is told to take; None leaves it to vLLM."""
    if params.gpu_memory_utilization is not None:
        return params.gpu_memory_utilization
    return step.gpu_share if step.gpu_share < 1 else None


def context(step: StepView, params: EngineParams) -> int | None:
    """Tokens that one answer may take; None if nobody knows."""
    if params.max_model_len is not None:
        return params.max_model_len
    trained = step.inputs[0].facts.context
    if (
        step.flavour == "cpu" and trained is not None
    ):  # a CPU's memory is the machine's: no long context unasked
        return min(trained, DEFAULT_CONTEXT)
    return trained


def engine_words(step: StepView, params: EngineParams) -> Iterator[Word]:
    """The words of vLLM's EngineArgs."""
    length = context(step, params)
    if length is not None and (params.max_model_len is not None or step.flavour == "cpu"):
        yield from ("--max-model-len", str(length))
    yield from flags(params, *ENGINE_FLAGS)
    if step.flavour != "cpu":
        share = utilization(step, params)
        if share is not None:
            yield from ("--gpu-memory-utilization", f"{share:g}")
        yield from ("--tensor-parallel-size", str(parallel(step, params)))
        yield from flags(params, "pipeline_parallel_size", "data_parallel_size")
    eager = params.enforce_eager if params.enforce_eager is not None else step.flavour == "cpu"
    if eager:
        yield "--enforce-eager"
    if params.rope_scaling is not None:
        yield from ("--hf-overrides", rope_overrides(step, params))
    if step.trust_remote_code:
        yield "--trust-remote-code"


def rope_overrides(step: StepView, params: EngineParams) -> str:
    """The entry of config.json that stretches the context: its name changed with transformers 5."""
    assert params.rope_scaling is not None
    said = {key: value for key, value in params.rope_scaling.model_dump().items() if value is not None}
    trained = step.inputs[0].facts.context
    if trained is not None:
        said.setdefault("original_max_position_embeddings", trained)
    name = "rope_scaling" if step.flavour == "cuda12" else "rope_parameters"
    return json.dumps({name: said}, sort_keys=True)


def files(params: EngineParams, *names: str) -> tuple[LaunchFile, ...]:
    made = tuple(driver((DRIVERS if name.startswith("vllm_") else SHARED) / name) for name in names)
    return made if params.chat_template is None else (*made, LaunchFile(TEMPLATE, params.chat_template))


def template_words(params: EngineParams) -> Iterator[Word]:
    if params.chat_template is not None:
        yield from ("--chat-template", DriverRef(TEMPLATE))


def lora_words(adapters: tuple[Given, ...]) -> Iterator[Word]:
    """Adapters by their names; the driver adds the largest rank where nobody says it."""
    if adapters:
        yield from ("--enable-lora", "--max-loras", str(len(adapters)), "--lora-modules")
        for adapter in adapters:
            yield Join((f"{adapter.name}=", InputRef(adapter.name)))


def environment(step: StepView, params: EngineParams) -> dict[str, Word]:
    """No telemetry; on a CPU the room for the cache, and threads left where the lease puts them."""
    env: dict[str, Word] = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1"}
    if step.flavour == "cpu":
        env |= {"VLLM_CPU_KVCACHE_SPACE": str(cpu_cache(step, params)), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return env


def cpu_cache(step: StepView, params: EngineParams) -> int:
    """GiB of key/value cache on a CPU: two answers of full length, at least one GiB."""
    if params.cpu_kvcache_space is not None:
        return params.cpu_kvcache_space
    need = cache_bytes(step.inputs[0].facts, context(step, params) or DEFAULT_CONTEXT, sequences=2)
    return max(1, math.ceil((need or 0) / GIB))


def resources(step: StepView, params: EngineParams, adapters: tuple[Given, ...] = ()) -> Resources:
    """On cards what one answer of full length needs (vLLM fills the rest of its share with cache); on a CPU weights,
    the cache that it is given, and the libraries of two processes."""
    beside = sum(adapter.facts.bytes or 0 for adapter in adapters)
    size = {"half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4}.get(params.dtype)
    plain = size if step.inputs[0].type == "model/safetensors" else None
    libraries = _CPU_LIBRARIES if step.flavour == "cpu" else _GPU_LIBRARIES
    found = answering(step, context(step, params), library=libraries, beside=beside, dtype_bytes=plain)
    if step.flavour == "cpu" and found.memory is not None:
        one = cache_bytes(step.inputs[0].facts, context(step, params) or DEFAULT_CONTEXT) or 0
        more = max(0, cpu_cache(step, params) * GIB - one)
        note = f"{found.note}, key/value cache of {cpu_cache(step, params)} GiB in all"
        return Resources(memory=found.memory + more, note=note)
    return found


def shared_memory(step: StepView) -> int:
    return _SHM if step.gpus > 1 else _SHM_ALONE
