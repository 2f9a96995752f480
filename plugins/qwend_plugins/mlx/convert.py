"""`mlx/convert`: a checkpoint becomes a model for MLX, quantised or not; or a quantised one is written out again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

import msgspec

from qwend.plugin import (
    DriverRef,
    Facts,
    Finding,
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
    Word,
    flag,
)
from qwend_plugins.mlx import common
from qwend_plugins.serving import flags

MODES = {"affine": (64, 4), "mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}
"""Group size and bits of each mode where nobody says others (mlx-lm's `quantize_model`)."""
_BESIDE = {"affine": 32, "mxfp4": 8, "nvfp4": 8, "mxfp8": 8}
"""Bits that each group has besides its weights: scale and bias in 16 bits, or one scale in 8."""
_DTYPES = {"float16": 16.0, "bfloat16": 16.0, "float32": 32.0}
READABLE = ("qwen2", "qwen3")
"""Architectures whose weights MLX writes under the names that transformers reads; experts are stacked by MLX."""


class ConvertParams(Params):
    """Parameters of mlx_lm.convert, by its own names. Nothing is ever uploaded."""

    quantize: bool | None = flag(
        "-q", None, description="quantise; left out: yes, unless dequantize or nothing but dtype is said"
    )
    q_bits: Literal[2, 3, 4, 5, 6, 8] | None = flag(
        "--q-bits", None, description="bits per weight; left out: the mode's own (affine: 4)"
    )
    q_group_size: Literal[16, 32, 64, 128] | None = flag(
        "--q-group-size",
        None,
        description="weights that share a scale; left out: the mode's own (affine: 64)",
    )
    q_mode: Literal["affine", "mxfp4", "nvfp4", "mxfp8"] = flag(
        "--q-mode", "affine", description="how numbers are packed"
    )
    quant_predicate: Literal["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"] | None = flag(
        "--quant-predicate", None, description="a recipe of low and high bits: important layers get more"
    )
    dtype: Literal["float16", "bfloat16", "float32"] | None = flag(
        "--dtype", None, description="number format of what is not quantised; left out: the checkpoint's own"
    )
    dequantize: bool = flag("--dequantize", False, description="write a quantised model out in full numbers")


class Convert:
    """Makes a model for MLX."""

    name: ClassVar[str] = "mlx/convert"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "makes a model for MLX of a checkpoint, quantised or not (mlx_lm.convert)"
    params: ClassVar[type[Params]] = ConvertParams
    accepts: ClassVar[tuple[str, ...]] = ("model/safetensors", "model/mlx")
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        yield from common.machine_findings(step, host)
        yield from common.model_findings(step)
        yield from _findings(step)
        if step.extra_args:
            yield Finding("there are no further arguments: all of them are parameters", "extra_args")

    def product(self, step: StepView) -> Product:
        params, facts = _params(step), step.inputs[0].facts
        back = params.dequantize and facts.architecture in READABLE
        return Product("model/safetensors" if back else "model/mlx", _rewritten(facts, params))

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        facts, made = step.inputs[0].facts, self.product(step).facts.bytes
        known = None not in (facts.bytes, made)
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("mlx_convert.py"), *_words(step)),
            env=common.environment(step),
            files=common.files("mlx_convert.py", "mlx_start.py"),
            resources=Resources(
                memory=(facts.bytes or 0) + (made or 0) + common.LIBRARIES if known else None,
                disk=made,
                heavy=True,
                note="the weights as read and as written" if known else "",
            ),
            hints=common.HINTS,
        )


def quantises(params: ConvertParams) -> bool:
    """Whether the result is quantised: what is said, else what the other parameters amount to."""
    if params.quantize is not None:
        return params.quantize
    asked = params.q_bits or params.q_group_size or params.quant_predicate or params.q_mode != "affine"
    return not params.dequantize and (bool(asked) or params.dtype is None)


def _findings(step: StepView) -> Iterator[Finding]:
    params, facts = _params(step), step.inputs[0].facts
    group, bits = MODES[params.q_mode]
    asked = [
        name for name in ("q_bits", "q_group_size", "quant_predicate") if getattr(params, name) is not None
    ]
    if params.quantize and params.dequantize:
        yield Finding("a model is quantised or written out, not both", "with.dequantize")
    elif asked and not quantises(params):
        yield Finding(f"{asked[0]} says nothing where nothing is quantised", f"with.{asked[0]}")
    if params.dequantize and step.inputs[0].type == "model/safetensors":
        yield Finding("the model is not quantised: there is nothing to undo", "with.dequantize")
    if quantises(params) and common.quantised(facts):
        yield Finding(
            f"the model is quantised already ({facts.bits:g} bits per weight)",
            "from",
            "quantise the original, or first write it out: dequantize: true",
        )
    if params.q_mode != "affine":
        for name, own in (("q_group_size", group), ("q_bits", bits)):
            if getattr(params, name) not in (None, own):
                yield Finding(f"{params.q_mode} has {own} and no other", f"with.{name}")
        if params.quant_predicate:
            yield Finding(
                f"recipes of mixed bits are for affine, not for {params.q_mode}", "with.quant_predicate"
            )
    elif params.q_group_size == 16:
        yield Finding("affine packs groups of 32, 64 or 128", "with.q_group_size")
    if params.quant_predicate and params.q_bits:
        yield Finding(f"{params.quant_predicate} says the bits itself", "with.q_bits")
    width = params.q_group_size or group
    if quantises(params) and facts.hidden is not None and facts.hidden % width:
        yield Finding(
            f"rows of {facts.hidden} weights do not fill groups of {width}: they would stay as they are",
            "with.q_group_size",
            level="warning",
        )


def bits_per_weight(params: ConvertParams) -> float | None:
    """Of the result: None where a recipe of mixed bits decides layer by layer, or the checkpoint does."""
    if not quantises(params):
        return _DTYPES.get(params.dtype or "")
    group, bits = MODES[params.q_mode]
    if params.quant_predicate:
        return None
    return (params.q_bits or bits) + _BESIDE[params.q_mode] / (params.q_group_size or group)


def _rewritten(facts: Facts, params: ConvertParams) -> Facts:
    bits = bits_per_weight(params)
    if bits is None and not params.quant_predicate:
        bits = 16.0 if params.dequantize else facts.bits
    size = None if facts.parameters is None or bits is None else int(facts.parameters * bits / 8)
    dtype = params.dtype or (None if common.quantised(facts) else facts.dtype)
    return msgspec.structs.replace(facts, bits=bits, bytes=size, dtype=dtype)


def _words(step: StepView) -> Iterator[Word]:
    params = _params(step)
    yield from ("--model", InputRef(step.inputs[0].name), "--out", OutputRef())
    if quantises(params):
        group, bits = MODES[params.q_mode]
        yield from ("--quantize", "--q-group-size", str(params.q_group_size or group))
        yield from ("--q-bits", str(params.q_bits or bits), "--q-mode", params.q_mode)
    yield from flags(params, "quant_predicate", "dtype", "dequantize")
    if step.trust_remote_code:
        yield "--trust-remote-code"


def _params(step: StepView) -> ConvertParams:
    assert isinstance(step.params, ConvertParams)
    return step.params
