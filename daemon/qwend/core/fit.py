"""Which forms of a model fit a machine: pure arithmetic on facts, before anything is downloaded.

The bytes come from `model.memory`, which engines use too, so that a plan and `qwend fit` never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from qwend.model.artifact import Facts
from qwend.model.host import Host
from qwend.model.memory import Estimate, cache_bytes, estimate, human, weight_bytes

__all__ = ["FORMATS", "Estimate", "Fit", "Format", "cache_bytes", "estimate", "fits", "human", "weight_bytes"]

RESERVE = 1024**3
"""Host memory left to the system."""

Verdict = Literal["fits", "tight", "too big", "unknown"]


class Format(msgspec.Struct, frozen=True):
    """A form that weights can be brought into: the artifact type, a name people use, bits per weight over the
    whole file (block scales and higher-precision tensors included), and the flavours of engines that read it."""

    type: str
    name: str
    bits: float
    flavours: tuple[str, ...]


_ANY = ("cpu", "cuda", "cuda12", "apple")
FORMATS = (
    Format("model/safetensors", "bf16", 16.0, _ANY),
    Format("model/gguf", "F16", 16.0, _ANY),
    Format("model/gguf", "Q8_0", 8.5, _ANY),
    Format("model/gguf", "Q6_K", 6.6, _ANY),
    Format("model/gguf", "Q5_K_M", 5.7, _ANY),
    Format("model/gguf", "Q4_K_M", 4.9, _ANY),
    Format("model/gguf", "Q3_K_M", 4.0, _ANY),
    Format("model/gguf", "Q2_K", 3.2, _ANY),
    Format("model/compressed-tensors", "FP8", 8.2, ("cuda",)),
    Format("model/gptq", "8 bit", 8.3, ("cpu", "cuda", "cuda12")),
    Format("model/awq", "4 bit", 4.6, ("cpu", "cuda", "cuda12")),
    Format("model/gptq", "4 bit", 4.6, ("cpu", "cuda", "cuda12")),
    Format("model/mlx", "8 bit", 8.5, ("apple",)),
    Format("model/mlx", "4 bit", 4.5, ("apple",)),
)
"""Best quality first within a type. GGUF's figures are those of llama.cpp's own table for models of 7 to 8
billion weights, rounded up; block formats add their scales (one f16 per group of 32, 64 or 128)."""


class Fit(msgspec.Struct, frozen=True):
    """Whether one format fits one place (`memory`, or a card by its index). Bytes; None is unknown."""

    format: Format
    place: str
    verdict: Verdict
    estimate: Estimate | None = None
    capacity: int | None = None


def fits(facts: Facts, host: Host, context: int, formats: Iterable[Format] = FORMATS) -> tuple[Fit, ...]:
    """Every format against every place of the host, in the order of `formats`.

    `tight` is a need of more than nine tenths of the place. Weights that are already quantised are only held
    against their own format by the caller: this table says what a conversion would come to.
    """
    return tuple(
        _fit(format_, place, capacity, facts, context)
        for format_ in formats
        for place, capacity in _places(host)
        if _reads(format_, place)
    )


def _places(host: Host) -> tuple[tuple[str, int | None], ...]:
    memory = None if host.memory is None else max(0, host.memory - RESERVE)
    unified = host.system == "darwin" and host.machine == "arm64"
    cards = tuple((f"gpu {gpu.index}", gpu.memory) for gpu in host.gpus)
    return (("unified memory" if unified else "memory", memory), *cards)


def _reads(format_: Format, place: str) -> bool:
    wanted = {"memory": ("cpu",), "unified memory": ("apple", "cpu")}.get(place, ("cuda", "cuda12"))
    return any(flavour in format_.flavours for flavour in wanted)


def _fit(format_: Format, place: str, capacity: int | None, facts: Facts, context: int) -> Fit:
    need = estimate(facts, context, bits=format_.bits)
    if need is None or capacity is None:
        return Fit(format_, place, "unknown", need, capacity)
    verdict: Verdict = "too big"
    if need.total <= capacity:
        verdict = "tight" if need.total > capacity * 0.9 else "fits"
    return Fit(format_, place, verdict, need, capacity)


def longest(fit: Fit, facts: Facts) -> int | None:
    """The longest context in tokens that this form has room for, at most the trained one; None is unknown."""
    if fit.estimate is None or fit.capacity is None:
        return None
    each = cache_bytes(facts, 1)
    if not each:
        return None
    room = max(0, fit.capacity - fit.estimate.weights - fit.estimate.headroom) // each
    return room if facts.context is None else min(room, facts.context)
