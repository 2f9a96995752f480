"""`llama-cpp/convert-lora`: a LoRA adapter of PEFT becomes a GGUF that llama-cpp/serve applies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from qwend.plugin import (
    DriverRef,
    Facts,
    Finding,
    Given,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    LogHint,
    OutputRef,
    Params,
    Product,
    Resources,
    StepView,
    flag,
    reference,
)
from qwend_plugins.llama_cpp import common

_TORCH = common.GIB + common.GIB // 4
_HINTS = (
    LogHint(
        r"Unexpected name '(?P<tensor>[^']+)'|(?:embed_tokens|lm_head) is present in adapter",
        "the adapter holds whole tensors beside its LoRA (trained with modules_to_save, or resized embeddings)",
        "merge it into its model, then convert that: llama-factory/export, llama-cpp/convert",
    ),
    LogHint(
        r"Can not map tensor '(?P<tensor>[^']+)'",
        "the adapter belongs to another architecture than its base ({tensor})",
        "name the model that it was trained on with base:",
    ),
    LogHint(
        r"Model (?P<architecture>\S+) is not supported",
        "the converter does not know the architecture {architecture}",
        "upgrade the image: qwend images lock llama-cpp-convert --upgrade",
    ),
    common.DISK_FULL,
    common.OUT_OF_MEMORY,
)


class ConvertLoraParams(Params):
    """Parameters of convert_lora_to_gguf.py, by its own names."""

    base: str | None = reference(
        "model/safetensors",
        description="the model that the adapter was trained on; left out: the one in its provenance",
    )
    outtype: Literal["auto", "f32", "f16", "bf16", "q8_0"] = flag(
        "--outtype", "auto", description="number format of the GGUF; auto: the adapter's own 16 bits"
    )
    no_lazy: bool = flag("--no-lazy", False, description="read all tensors before writing", fingerprint=False)


class ConvertLora:
    """Makes a GGUF of an adapter."""

    name: ClassVar[str] = "llama-cpp/convert-lora"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "makes a GGUF of a LoRA adapter (convert_lora_to_gguf.py)"
    params: ClassVar[type[Params]] = ConvertLoraParams
    accepts: ClassVar[tuple[str, ...]] = ("adapter/lora",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        if base(step) is None:
            adapter = step.inputs[0]
            named = f" (it names {adapter.facts.base})" if adapter.facts.base else ""
            yield Finding(
                f"the model that {adapter.name} belongs to is not in this recipe{named}",
                "with.base",
                "add it under models: and name it with base:",
            )

    def product(self, step: StepView) -> Product:
        adapter, known = step.inputs[0].facts, base(step)
        return Product(
            "adapter/gguf",
            Facts(
                architecture=known.facts.architecture if known else None,
                parameters=adapter.parameters,
                bytes=adapter.bytes,
                base=adapter.base,
            ),
        )

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.CONVERTER, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, adapter, known = step.params, step.inputs[0], base(step)
        return Launch(
            argv=(
                ImageRef("bin/python"),
                DriverRef("convert.py"),
                ImageRef("share/llama.cpp/convert_lora_to_gguf.py"),
                *(("--trust-remote-code",) if step.trust_remote_code else ()),
                "--",
                *(("--base", InputRef(known.name)) if known else ()),
                "--outfile",
                OutputRef("adapter.gguf"),
                *common.flags(params, "outtype", "no_lazy"),
                *step.extra_args,
                InputRef(adapter.name),
            ),
            env={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
            files=common.drivers("convert.py", *common.MAKING),
            resources=Resources(memory=_TORCH + 2 * (adapter.facts.bytes or 0), disk=adapter.facts.bytes),
            hints=_HINTS,
        )


def base(step: StepView) -> Given | None:
    """The model of the adapter: the one that is named, else the one that it was trained on."""
    named = step.given.get("base", ())
    if named:
        return named[0]
    return next((one for one in step.inputs[0].lineage if one.type == "model/safetensors"), None)
