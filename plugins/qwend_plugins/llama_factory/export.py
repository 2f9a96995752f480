"""`llama-factory/export`: an adapter is merged into its base."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field

from qwend.plugin import (
    DriverRef,
    Finding,
    Given,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    OutputRef,
    Params,
    Product,
    Resources,
    StepView,
    driver,
    flag,
    reference,
)
from qwend_plugins.checkpoints import both_ways
from qwend_plugins.llama_factory import common

OURS = (
    "model_name_or_path", "adapter_name_or_path", "export_dir", "export_legacy_format", "export_hub_model_id",
    "export_quantization_bit", "export_quantization_dataset", "finetuning_type", "stage", "trust_remote_code",
    "quantization_bit", "cache_dir", "offload_folder", "hf_hub_token", "ms_hub_token", "om_hub_token",
)  # fmt: skip
_BITS = {"float32": 32.0, "float16": 16.0, "bfloat16": 16.0}
_DRIVERS = ("lf_report", "lf_tensors", "lf_infer")


class ExportParams(Params):
    """Parameters of `llamafactory-cli export`, by its own names."""

    base: str | None = reference(
        "model/safetensors",
        description="the adapter's base; left out: the one it was trained on, from its provenance",
    )
    checkpoint: int | None = Field(
        None, ge=1, description="merge this checkpoint instead of the last weights"
    )
    template: str | None = flag(
        "template",
        None,
        description="chat template by LLaMA-Factory's name; left out: the one it was trained with",
    )
    export_size: int = flag("export_size", 5, description="largest file, in GB", ge=1, le=1000)
    export_device: Literal["cpu", "auto"] = flag(
        "export_device",
        "cpu",
        description="where it is merged; auto: on the card, if there is one",
        fingerprint=False,
    )
    infer_dtype: Literal["auto", "float16", "bfloat16", "float32"] = flag(
        "infer_dtype", "auto", description="number format of the merged weights; auto: the base's own"
    )
    arguments: dict[str, Any] = Field(
        {}, description="any other argument of LLaMA-Factory, checked against its parser"
    )


class Export:
    """Merges, and proves that what was written is the base with the adapted weights changed."""

    name: ClassVar[str] = "llama-factory/export"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "merges an adapter into the base that it was trained on"
    params: ClassVar[type[Params]] = ExportParams
    accepts: ClassVar[tuple[str, ...]] = ("adapter/lora",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, adapter = _params(step), step.inputs[0]
        base, trained = _base(step), common.base_of(adapter)
        if base is None:
            yield Finding(
                f"{adapter.name} comes from elsewhere: its base is not known ({adapter.facts.base or 'it names none'})",
                "from",
                "name it: with: {base: …}",
            )
        elif trained is not None and step.given.get("base") and not _same(base, trained):
            yield Finding(
                f"{adapter.name} was trained on {trained.name}, not on {base.name}",
                "with.base",
                "leave base out",
            )
        if adapter.facts.extra.get("stage") == "rm":
            yield Finding(f"{adapter.name} is a reward model: merged it would answer nothing", "from")
        yield from common.template_findings(params.template, base)
        yield from common.more_findings(params, step.extra_args, common.KNOWN["infer"], OURS)

    def product(self, step: StepView) -> Product:
        base = _base(step)
        if base is None:
            return Product("model/safetensors")
        facts, dtype = base.facts, _params(step).infer_dtype
        template = facts.template
        if dtype != "auto":
            size = None if facts.parameters is None else int(facts.parameters * _BITS[dtype] / 8)
            facts = msgspec.structs.replace(facts, dtype=dtype, bits=_BITS[dtype], bytes=size)
        return Product("model/safetensors", msgspec.structs.replace(facts, template=template))

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, adapter = _params(step), step.inputs[0]
        base = _base(step)
        told = common.told(params, leave_out=("export_device",)) | {
            "template": params.template or common.template_of(adapter) or (base and common.template_of(base)),
            "finetuning_type": "lora",
            "export_legacy_format": False,
            "export_device": params.export_device if step.flavour != "cpu" else "cpu",
            **({"trust_remote_code": True} if step.trust_remote_code else {}),
            **common.extras(params, step.extra_args),
        }
        return Launch(
            argv=(
                ImageRef("bin/python"),
                DriverRef("lf_export.py"),
                "--arguments",
                DriverRef("arguments.json"),
                *(() if base is None else ("--model", InputRef(base.name))),
                "--adapter",
                InputRef(adapter.name, common.checkpoint(params.checkpoint)),
                "--out",
                OutputRef(),
            ),
            env=common.environment(),
            files=(
                driver(common.DRIVERS / "lf_export.py"),
                *common.drivers(*_DRIVERS),
                both_ways(),
                common.json_file("arguments.json", told),
            ),
            resources=_resources(base),
            hints=common.HINTS,
        )


def _resources(base: Given | None) -> Resources:
    size = base.facts.bytes if base is not None else None
    memory = None if size is None else 2 * size + 3 * common.GIB // 2
    return Resources(
        memory=memory, disk=size, heavy=True, note="the base and a copy of it while it is written"
    )


def _base(step: StepView) -> Given | None:
    """The base that was named, else the one that the adapter was trained on."""
    return next(iter(step.given.get("base", ())), None) or common.base_of(step.inputs[0])


def _same(one: Given, other: Given) -> bool:
    if one.pin is not None and other.pin is not None:
        return one.pin.identity == other.pin.identity
    return one.name == other.name


def _params(step: StepView) -> ExportParams:
    assert isinstance(step.params, ExportParams)
    return step.params
