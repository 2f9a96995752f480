"""`gptq/quantize`: a checkpoint in 2, 3, 4 or 8 bits by GPTQ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field

from qwend.plugin import Finding, Host, Image, Launch, Params, Product, StepView, flag, reference
from qwend_plugins.quantising import BACKENDS, Job, common_findings, launch, packed, quantising
from qwend_plugins.quantising.backends import image
from qwend_plugins.quantising.checks import of_other_backends

_OWN = {
    "gptqmodel": (
        "static_groups",
        "true_sequential",
        "act_group_aware",
        "damp_auto_increment",
        "mse",
        "batch_size",
    ),
    "llm-compressor": (),
}
"""Parameters that not every backend has."""
_BITS = {"gptqmodel": (2, 3, 4, 8), "llm-compressor": (4, 8)}


class QuantizeParams(Params):
    """Fields of GPTQModel's QuantizeConfig, by its own names."""

    backend: Literal["gptqmodel", "llm-compressor"] = Field(
        "gptqmodel",
        description="which library: gptqmodel writes the GPTQ format; llm-compressor the same algorithm in vLLM's own",
    )
    calibration: str = reference(
        "dataset/text",
        default=...,
        description="texts of the kind that the model will see; some hundred are enough",
    )
    bits: Literal[2, 3, 4, 8] = Field(
        4, description="bits per weight; 4 is the usual choice, 8 loses next to nothing"
    )
    group_size: Literal[-1, 16, 32, 64, 128, 256, 512, 1024] = Field(
        128,
        description="weights that share a scale; smaller is better and larger on disk; -1: one group a row",
    )
    damp_percent: float | None = Field(
        None,
        description="share of the mean diagonal that is added to it; left out: the library's 0.05 (0.01)",
        gt=0,
        lt=1,
    )
    damp_auto_increment: float | None = Field(
        None, description="by how much it grows where that was too little", ge=0, lt=1
    )
    desc_act: bool = Field(
        False, description="quantise columns in the order of their activations: better, and slower to serve"
    )
    act_group_aware: bool | None = Field(
        None, description="most of what desc_act gains, at no cost; left out: on unless desc_act is"
    )
    static_groups: bool = Field(False, description="fix the groups' scales before, for use with desc_act")
    sym: bool = Field(True, description="symmetric: no zero points")
    true_sequential: bool = Field(
        True,
        description="quantise the parts of a layer one after the other, each seeing what was done before",
    )
    mse: float = Field(
        0.0, description="norm by which scales are searched (2.4 is usual); 0: none", ge=0, le=8
    )
    modules_to_not_convert: tuple[str, ...] = Field(
        (), description="matrices that stay as they are, by a part of their name: [down_proj]"
    )
    num_calibration_samples: int = Field(128, description="texts to calibrate with, at most", ge=1, le=65536)
    max_seq_length: int = Field(
        2048, description="tokens of a calibration text, at most; longer ones are cut", ge=16, le=131072
    )
    batch_size: int = flag(
        "--batch",
        1,
        description="texts that go through a layer at once: faster, and more memory",
        fingerprint=False,
        ge=1,
        le=1024,
    )
    shard_size: str = Field(
        "5GB", description="largest file of the result", pattern=r"^\d+(?:MB|GB)$", min_length=3, max_length=8
    )


class Quantize:
    """Makes a checkpoint smaller."""

    name: ClassVar[str] = "gptq/quantize"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "quantises a checkpoint to 2, 3, 4 or 8 bits by GPTQ, and proves that it answers"
    params: ClassVar[type[Params]] = QuantizeParams
    accepts: ClassVar[tuple[str, ...]] = ("model/safetensors",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "cuda12")

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _params(step)
        yield from common_findings(step, params.backend, params.group_size, "with.group_size")
        yield from of_other_backends(params, params.backend, _OWN)
        if params.bits not in _BITS[params.backend]:
            yield Finding(
                f"{params.backend} packs 4 or 8 bits", "with.bits", "backend: gptqmodel has 2 and 3"
            )
        if params.act_group_aware and params.desc_act:
            yield Finding(
                "act_group_aware is in place of desc_act: both cannot be",
                "with.act_group_aware",
                "leave one out",
            )
        if params.static_groups and not params.desc_act:
            yield Finding(
                "static_groups changes something only together with desc_act",
                "with.static_groups",
                level="warning",
            )
        if params.bits in (2, 3):
            yield Finding(
                f"{params.bits} bits ruin small models, and vLLM's fast kernels want 4 or 8",
                "with.bits",
                "llama-cpp/quantize is better below 4 bits",
                level="warning",
            )
        if params.max_seq_length > (step.inputs[0].facts.context or params.max_seq_length):
            yield Finding(
                f"max_seq_length is beyond the model's context of {step.inputs[0].facts.context}",
                "with.max_seq_length",
            )

    def product(self, step: StepView) -> Product:
        params = _params(step)
        facts = packed(step.inputs[0].facts, params.bits, params.group_size)
        return Product(BACKENDS[params.backend].types["gptq"], facts)

    def image(self, step: StepView, host: Host) -> Image:
        return image(_params(step).backend, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        resources = quantising(
            step,
            self.product(step).facts,
            tokens=params.num_calibration_samples * params.max_seq_length,
            element=2,
            at_once=params.batch_size * params.max_seq_length,
        )
        return launch(step, _job(params), resources)


def _job(params: QuantizeParams) -> Job:
    claim: dict[str, Any] = {
        "method": "gptq",
        "bits": params.bits,
        "group_size": params.group_size,
        "ignore": list(params.modules_to_not_convert),
    }
    shared = {
        "samples": params.num_calibration_samples,
        "length": params.max_seq_length,
        "shard_size": params.shard_size,
    }
    if params.backend == "gptqmodel":
        names = ("bits", "group_size", "desc_act", "static_groups", "sym", "true_sequential")
        wanted: dict[str, Any] = {name: getattr(params, name) for name in names}
        for name in ("damp_percent", "damp_auto_increment", "act_group_aware"):
            wanted[name] = getattr(params, name)
        wanted |= {"method": "gptq", "mse": params.mse or None}
        wanted["dynamic"] = {f"-:.*{name}.*": {} for name in params.modules_to_not_convert} or None
        words = ("--batch", str(params.batch_size))
        return Job("gptqmodel", {"quantize": wanted, **shared}, claim, "calibration", words)
    ignore = [f"re:.*{name}.*" for name in params.modules_to_not_convert]
    groups = params.group_size > 0
    options = {
        **shared,
        "algorithm": "gptq",
        "scheme": f"W{params.bits}A16",
        "weights": {
            "num_bits": params.bits,
            "group_size": params.group_size if groups else None,
            "strategy": "group" if groups else "channel",
            "symmetric": params.sym,
        },
        "group_size": params.group_size,
        "ignore": ignore,
        "smoothing_strength": 0.0,
        "block_size": 128,
        "dampening_frac": 0.01 if params.damp_percent is None else params.damp_percent,
        "actorder": "static" if params.desc_act else "none",
    }
    return Job(
        "llm-compressor",
        options,
        {**claim, "method": "compressed-tensors", "ignore": ignore},
        "calibration",
    )


def _params(step: StepView) -> QuantizeParams:
    assert isinstance(step.params, QuantizeParams)
    return step.params
