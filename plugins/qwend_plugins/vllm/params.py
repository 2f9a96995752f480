"""Parameters of vLLM's engine, by its own names: what serving and batches share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from qwend.plugin import Params, flag, reference

Quantization = Literal[
    "awq", "awq_marlin", "gptq", "gptq_marlin", "compressed-tensors", "fp8", "moe_wna16", "torchao", "quark"
]  # fmt: skip


class RopeScaling(Params):
    """How positions beyond the trained length are scaled, in the words of config.json."""

    rope_type: Literal["yarn", "linear", "dynamic"] = Field(
        "yarn", description="yarn is what Qwen was made for"
    )
    factor: float = Field(description="by how much the context grows", gt=1)
    original_max_position_embeddings: int | None = Field(
        None, description="trained length; left out: the model's own", ge=1
    )
    rope_theta: float | None = Field(
        None, description="base of the rotation; left out: the model's own", gt=0
    )


class EngineParams(Params):
    """What vLLM's engine is told."""

    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = flag(
        "--dtype",
        "auto",
        description="number format of weights and activations; half for cards before Ampere",
    )
    quantization: Quantization | None = flag(
        "--quantization", None, description="how the weights are quantised; left out: as config.json says"
    )
    max_model_len: int | None = flag(
        "--max-model-len",
        None,
        description="tokens of prompt and answer together; left out: what the model was trained for",
        ge=16,
        le=2**24,
    )
    gpu_memory_utilization: float | None = flag(
        "--gpu-memory-utilization",
        None,
        description="share of each card that vLLM takes; left out: gpu_share, or vLLM's own 0.9 for a whole card",
        gt=0,
        le=1,
    )
    max_num_seqs: int | None = flag(
        "--max-num-seqs", None, description="answers generated at once", ge=1, le=65536
    )
    max_num_batched_tokens: int | None = flag(
        "--max-num-batched-tokens", None, description="tokens computed at once", ge=1
    )
    tensor_parallel_size: int | None = flag(
        "--tensor-parallel-size",
        None,
        description="cards that share each layer; left out: all that the step leases",
        ge=1,
    )
    pipeline_parallel_size: int = flag(
        "--pipeline-parallel-size", 1, description="groups of cards that share the layers among them", ge=1
    )
    data_parallel_size: int = flag("--data-parallel-size", 1, description="copies of the whole model", ge=1)
    distributed_executor_backend: Literal["mp", "ray"] | None = flag(
        "--distributed-executor-backend",
        None,
        description="what starts the workers; ray for several machines",
    )
    kv_cache_dtype: Literal["auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"] = flag(
        "--kv-cache-dtype", "auto", description="number format of the key/value cache"
    )
    swap_space: float | None = flag(
        "--swap-space",
        None,
        description="GiB of host memory per card for the cache; the cuda12 build only",
        ge=0,
    )
    kv_offloading_size: float | None = flag(
        "--kv-offloading-size", None, description="GiB of host memory for the cache of idle requests", gt=0
    )
    cpu_offload_gb: float | None = flag(
        "--cpu-offload-gb", None, description="GiB of weights per card that stay in host memory", gt=0
    )
    cpu_kvcache_space: int | None = Field(
        None,
        description="GiB for the key/value cache on a CPU; left out: two answers of full length",
        ge=1,
        json_schema_extra={"x-qwend-fingerprint": False},
    )
    enable_prefix_caching: bool | None = flag(
        "--enable-prefix-caching", None, description="keep the cache of common beginnings", fingerprint=False
    )
    enable_chunked_prefill: bool | None = flag(
        "--enable-chunked-prefill", None, description="compute long prompts in pieces", fingerprint=False
    )
    enforce_eager: bool | None = flag(
        "--enforce-eager",
        None,
        description="no compilation: a quick start, slower answers; left out: true on a CPU, false on cards",
    )
    seed: int | None = flag("--seed", None, description="seed of sampling where a request names none", ge=0)
    rope_scaling: RopeScaling | None = Field(
        None, description="stretches the context: {factor: 4.0} is YaRN by 4"
    )
    chat_template: str | None = Field(
        None, description="a Jinja template in place of the model's own", min_length=1, max_length=262_144
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="arguments for the template: {enable_thinking: false}"
    )
    generation_config: Literal["auto", "vllm"] = flag(
        "--generation-config",
        "auto",
        description="where the defaults of sampling come from: the model, or vLLM's own neutral ones",
    )
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None = flag(
        "--max-lora-rank", None, description="largest rank of an adapter; left out: read from the adapters"
    )


class ServeParams(EngineParams):
    """What vLLM's server is told."""

    lora: tuple[str, ...] = reference(
        "adapter/lora", default=(), description="adapters; each answers under its own name"
    )
    served_model_name: tuple[str, ...] = flag(
        "--served-model-name", (), description="more names under which the model answers, besides the step's"
    )
    enable_auto_tool_choice: bool = flag(
        "--enable-auto-tool-choice", False, description="let the model call tools; needs tool_call_parser"
    )
    tool_call_parser: str | None = flag(
        "--tool-call-parser",
        None,
        description="how tool calls are read: hermes for Qwen2.5 and Qwen3, qwen3_coder for Qwen3-Coder",
        pattern=r"^[a-z0-9_]+$",
    )
    reasoning_parser: str | None = flag(
        "--reasoning-parser",
        None,
        description="how thinking is told from the answer: qwen3",
        pattern=r"^[a-z0-9_]+$",
    )
    nnodes: int = flag("--nnodes", 1, description="machines that serve this model together", ge=1)
    node_rank: int = flag("--node-rank", 0, description="which of them this one is; 0 answers requests", ge=0)
    master_addr: str | None = flag(
        "--master-addr", None, description="address of the machine with rank 0", pattern=r"^[A-Za-z0-9.:_-]+$"
    )
    master_port: int = flag(
        "--master-port", 29501, description="port where the machines meet", ge=1, le=65535
    )
