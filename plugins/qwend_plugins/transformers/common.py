"""What the engines of transformers share: parameters that say how to load, words of a command line, checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from qwend.plugin import (
    DriverRef,
    Finding,
    Image,
    InputRef,
    LaunchFile,
    LogHint,
    Params,
    Resources,
    StepView,
    ThreadsRef,
    Word,
    driver,
    flag,
    load_image,
    reference,
)
from qwend_plugins.serving import GIB, adapter_findings, answering, flags
from qwend_plugins.serving.batches import DRIVERS as SHARED

DRIVERS = Path(__file__).parent / "drivers"
FLAVOURS = ("cpu", "cuda", "cuda12", "apple")
MODELS = ("model/safetensors", "model/compressed-tensors", "model/gptq", "model/awq")
DEVICES = {"cpu": "cpu", "cuda": "cuda", "cuda12": "cuda", "apple": "mps"}
TEMPLATE = "chat_template.jinja"
DEFAULT_CONTEXT = 8192

_LIBRARIES = GIB
"""Resident set with torch, transformers and peft imported, before any weight (measured on Linux: 0.8 GiB)."""

HINTS = (
    LogHint(
        r"(?:CUDA out of memory|OutOfMemoryError|DefaultCPUAllocator: can't allocate memory|std::bad_alloc)",
        "there was not enough memory",
        "a smaller or quantised model, a shorter context or a smaller batch needs less",
    ),
    LogHint(
        r"does not recognize this architecture|does not know the architecture (?P<architecture>\S+)",
        "this transformers does not know the architecture {architecture}",
        "a newer one may; qwend images lock transformers --upgrade transformers takes one",
    ),
    LogHint(
        r"Error while deserializing header: (?P<why>\w+)|MetadataIncompleteBuffer|SafetensorError",
        "a safetensors file of the checkpoint is broken or cut short",
        "qwend store verify finds damage; fetch it again",
    ),
)


class LoadParams(Params):
    """How a checkpoint is loaded, by the names of from_pretrained()."""

    adapter: str | None = reference(
        "adapter/lora", description="a LoRA adapter, applied without merging; its base has to be the model"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = flag(
        "--dtype", "auto", description="number format of the weights in memory; auto: the checkpoint's own"
    )
    attn_implementation: (
        Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None
    ) = flag(
        "--attn-implementation", None, description="which attention is used; left out: the best there is"
    )
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] = flag(
        "--device-map", "auto", description="how layers are spread over several cards", fingerprint=False
    )
    context: int | None = flag(
        "--context",
        None,
        description="tokens of prompt and answer together; left out: what the model was trained for",
        ge=64,
        le=2**24,
    )
    chat_template: str | None = Field(
        None, description="a Jinja template in place of the model's own", min_length=1, max_length=262_144
    )
    chat_template_kwargs: dict[str, Any] = flag(
        "--chat-template-kwargs", {}, description="arguments for the template: {enable_thinking: false}"
    )
    threads: int | None = flag(
        "--threads", None, description="CPU threads; left out: what the lease allows", fingerprint=False, ge=1
    )


def shared(*names: str) -> tuple[LaunchFile, ...]:
    """Drivers of this plugin, and those that it shares with others."""
    return tuple(driver((DRIVERS if name.startswith("tf_") else SHARED) / name) for name in names)


def files(params: LoadParams, *names: str) -> tuple[LaunchFile, ...]:
    """The drivers, and the chat template where the recipe brings one."""
    made = shared(*names)
    return made if params.chat_template is None else (*made, LaunchFile(TEMPLATE, params.chat_template))


def image(step: StepView) -> Image:
    """GPTQ and AWQ checkpoints are read by GPTQModel's kernels, which the gptq image holds."""
    packed = step.inputs[0].type in ("model/gptq", "model/awq")
    return load_image("qwend_images:gptq" if packed else "qwend_images:transformers", step.flavour)


def load_words(step: StepView, params: LoadParams) -> Iterator[Word]:
    """The options of `tf_load.add_model_options`."""
    yield from ("--model", InputRef(step.inputs[0].name), "--device", DEVICES[step.flavour])
    for adapter in step.given.get("adapter", ()):
        yield from ("--adapter", InputRef(adapter.name))
    yield from flags(params, "dtype", "attn_implementation", "context")
    if step.flavour.startswith("cuda"):
        yield from flags(params, "device_map")
    if params.chat_template is not None:
        yield from ("--chat-template", DriverRef(TEMPLATE))
    if step.trust_remote_code:
        yield "--trust-remote-code"
    yield from ("--threads", ThreadsRef() if params.threads is None else str(params.threads))


def load_findings(step: StepView, params: LoadParams) -> Iterable[Finding]:
    """What is wrong with how the model would be loaded."""
    model = step.inputs[0]
    yield from adapter_findings(model, step.given.get("adapter", ()), "with.adapter")
    if params.context and model.facts.context and params.context > model.facts.context:
        yield Finding(
            f"a context of {params.context} is beyond what the model was trained for ({model.facts.context})",
            "with.context",
            "vllm/serve and llama-cpp/serve stretch it with YaRN",
        )
    if (params.attn_implementation or "").startswith("flash") and not step.flavour.startswith("cuda"):
        yield Finding(
            f"{params.attn_implementation} needs a card; this runs on {step.flavour}",
            "with.attn_implementation",
        )
    if params.dtype == "float16" and step.flavour == "cpu":
        yield Finding(
            "half precision is slow on a CPU, and some of its operations are missing",
            "with.dtype",
            "bfloat16 or float32",
            level="warning",
        )
    if step.flavour == "apple" and model.type != "model/safetensors":
        yield Finding(
            f"{model.type} has no kernels for Metal", "from", "take the unquantised model, or mlx/convert"
        )


def resources(step: StepView, params: LoadParams, sequences: int = 1) -> Resources:
    """What loading and answering `sequences` at once takes."""
    model = step.inputs[0]
    tokens = params.context or min(DEFAULT_CONTEXT, model.facts.context or DEFAULT_CONTEXT)
    beside = sum(given.facts.bytes or 0 for given in step.given.get("adapter", ()))
    size = {"float32": 4, "bfloat16": 2, "float16": 2}.get(params.dtype)
    plain = size if model.type == "model/safetensors" else None
    return answering(step, tokens, library=_LIBRARIES, sequences=sequences, beside=beside, dtype_bytes=plain)
