"""`llm-compressor/quantize`: a checkpoint in one of vLLM's schemes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field

from qwend.plugin import Finding, Host, Image, Launch, Params, Product, StepView, reference
from qwend_plugins.quantising import BACKENDS, Job, common_findings, launch, packed, quantising
from qwend_plugins.quantising.backends import image

Scheme = Literal["W4A16", "W4A16_ASYM", "W8A16", "W8A8", "FP8", "FP8_DYNAMIC", "FP8_BLOCK"]
Algorithm = Literal["auto", "gptq", "awq", "rtn"]


class _Kind(msgspec.Struct, frozen=True):
    """Bits per weight, the group size (None: one scale a row, -1 in a claim; 0: blocks or one scale a matrix), the
    algorithm that is usual for it, and the oldest card whose tensor cores reckon so."""

    bits: int
    group: int | None
    usual: Literal["gptq", "rtn"]
    capability: tuple[int, int]


KINDS: dict[str, _Kind] = {
    "W4A16": _Kind(4, 128, "gptq", (7, 5)),
    "W4A16_ASYM": _Kind(4, 128, "gptq", (7, 5)),
    "W8A16": _Kind(8, 128, "gptq", (7, 5)),
    "W8A8": _Kind(8, None, "gptq", (7, 5)),
    "FP8": _Kind(8, 0, "rtn", (8, 9)),
    "FP8_DYNAMIC": _Kind(8, None, "rtn", (8, 9)),
    "FP8_BLOCK": _Kind(8, 0, "rtn", (8, 9)),
}
_SMOOTH = 0.8
"""SmoothQuant's strength that llm-compressor's own recipe for W8A8 has."""


class QuantizeParams(Params):
    """Parameters of llm-compressor's oneshot() and its modifiers, by their own names."""

    scheme: Scheme = Field(
        "W4A16",
        description="bits of weights and activations: W4A16 for few users, W8A8 or FP8_DYNAMIC for many at once",
        json_schema_extra={"x-qwend-noun": "scheme"},
    )
    dataset: str | None = reference(
        "dataset/text", description="calibration texts; FP8_DYNAMIC and FP8_BLOCK need none"
    )
    algorithm: Algorithm = Field(
        "auto", description="how weights are rounded; auto: gptq for integers, to the nearest (rtn) for FP8"
    )
    group_size: int | None = Field(
        None, description="weights that share a scale, for W4A16 and W8A16; left out: 128", ge=16, le=1024
    )
    ignore: tuple[str, ...] = Field(
        (), description="matrices that stay as they are, by name or re:pattern; lm_head always does"
    )
    num_calibration_samples: int = Field(512, description="texts to calibrate with, at most", ge=1, le=65536)
    max_seq_length: int = Field(
        2048, description="tokens of a calibration text, at most; longer ones are cut", ge=16, le=131072
    )
    dampening_frac: float = Field(
        0.01, description="GPTQ: share of the mean diagonal that is added to it", gt=0, lt=1
    )
    block_size: int = Field(128, description="GPTQ: columns that are quantised at once", ge=1, le=4096)
    actorder: Literal["static", "none"] = Field(
        "static", description="GPTQ: order columns by their activations; static costs nothing when serving"
    )
    duo_scaling: bool | Literal["both"] = Field(
        True, description="AWQ: scales from activations and weights, activations alone, or the better of both"
    )
    n_grid: int = Field(20, description="AWQ: how many scales are tried", ge=2, le=200)
    smoothing_strength: float | None = Field(
        None, description="SmoothQuant before rounding; left out: 0.8 for W8A8, else 0 (none)", ge=0, le=1
    )
    shard_size: str = Field(
        "5GB", description="largest file of the result", pattern=r"^\d+(?:MB|GB)$", min_length=3, max_length=8
    )


class Quantize:
    """Makes a checkpoint that vLLM serves."""

    name: ClassVar[str] = "llm-compressor/quantize"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "quantises a checkpoint for vLLM: W4A16, W8A16, W8A8 or FP8 (compressed-tensors)"
    params: ClassVar[type[Params]] = QuantizeParams
    accepts: ClassVar[tuple[str, ...]] = ("model/safetensors",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _params(step)
        kind, algorithm = KINDS[params.scheme], _algorithm(params)
        grouped = params.group_size or kind.group or None
        yield from common_findings(
            step, "llm-compressor", grouped, "with.group_size" if params.group_size else "with.scheme"
        )
        if params.group_size and not kind.group:
            yield Finding(f"{params.scheme} has no groups", "with.group_size", "leave it out, or take W4A16")
        if algorithm != "rtn" and params.scheme.startswith("FP8"):
            yield Finding(
                f"{algorithm} rounds to integers; FP8 is rounded to the nearest",
                "with.algorithm",
                "leave it out",
            )
        if needs_texts(params) and params.dataset is None:
            yield Finding(
                f"{params.scheme} by {algorithm} learns from texts, and there are none",
                "with.dataset",
                "name a dataset with texts of the kind that the model will see",
            )
        if params.dataset is not None and not needs_texts(params):
            yield Finding(f"{params.scheme} by {algorithm} reads no texts", "with.dataset", level="warning")
        cards = [gpu.capability for gpu in host.gpus if gpu.capability is not None]
        if cards and max(cards) < kind.capability:
            yield Finding(
                f"the cards here reckon in 16 bits with {params.scheme}: it needs compute capability "
                f"{kind.capability[0]}.{kind.capability[1]}",
                "with.scheme",
                "the result is as small, and no faster",
                level="warning",
            )

    def product(self, step: StepView) -> Product:
        params = _params(step)
        kind = KINDS[params.scheme]
        facts = packed(step.inputs[0].facts, kind.bits, params.group_size or kind.group)
        return Product(BACKENDS["llm-compressor"].types["rtn"], facts)

    def image(self, step: StepView, host: Host) -> Image:
        return image("llm-compressor", step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        texts = params.num_calibration_samples * params.max_seq_length if needs_texts(params) else 0
        at_once = params.max_seq_length if texts else None
        resources = quantising(step, self.product(step).facts, tokens=texts, element=2, at_once=at_once)
        return launch(step, _job(params), resources)


def _algorithm(params: QuantizeParams) -> str:
    return KINDS[params.scheme].usual if params.algorithm == "auto" else params.algorithm


def _smoothing(params: QuantizeParams) -> float:
    if params.smoothing_strength is not None:
        return params.smoothing_strength
    return _SMOOTH if params.scheme == "W8A8" and _algorithm(params) != "awq" else 0.0


def needs_texts(params: QuantizeParams) -> bool:
    """Whether anything learns from texts: the algorithm, the smoothing, or fixed scales of the activations."""
    return _algorithm(params) != "rtn" or _smoothing(params) > 0 or params.scheme == "FP8"


def _job(params: QuantizeParams) -> Job:
    kind = KINDS[params.scheme]
    changed: dict[str, Any] | None = None
    if params.group_size is not None:
        changed = {"group_size": params.group_size, "strategy": "group"}
    group = params.group_size or kind.group
    options = {
        "scheme": params.scheme,
        "algorithm": _algorithm(params),
        "weights": changed,
        "group_size": group,
        "ignore": list(params.ignore),
        "samples": params.num_calibration_samples,
        "length": params.max_seq_length,
        "dampening_frac": params.dampening_frac,
        "block_size": params.block_size,
        "actorder": params.actorder,
        "duo_scaling": params.duo_scaling,
        "n_grid": params.n_grid,
        "smoothing_strength": _smoothing(params),
        "shard_size": params.shard_size,
    }
    claimed = {None: -1, 0: None}.get(group, group)
    claim = {
        "method": "compressed-tensors",
        "bits": kind.bits,
        "group_size": claimed,
        "ignore": list(params.ignore),
    }
    return Job("llm-compressor", options, claim, "dataset" if needs_texts(params) else "")


def _params(step: StepView) -> QuantizeParams:
    assert isinstance(step.params, QuantizeParams)
    return step.params
