"""What follows for a quantised model from the facts of its source."""

from __future__ import annotations

import msgspec

from qwend.plugin import Facts

_TIED_BELOW = 5_000_000_000
"""Qwens below 5 B parameters share the embedding with the output head, larger ones do not (their configurations)."""
SCALED = "scaled"


def unquantised(facts: Facts) -> int | None:
    """Weights that stay in 16 bits: the embedding, and the output head where it has weights of its own."""
    if facts.vocabulary is None or facts.hidden is None or facts.parameters is None:
        return None
    tied = facts.parameters < _TIED_BELOW
    return min(facts.vocabulary * facts.hidden * (1 if tied else 2), facts.parameters)


def packed(facts: Facts, bits: float, group_size: int | None) -> Facts:
    """The layers in `bits` with a 16-bit scale and a zero point per group, the rest in 16 bits."""
    kept = unquantised(facts)
    if kept is None or facts.parameters is None:
        return msgspec.structs.replace(facts, bytes=None, bits=None)
    overhead = (16 + bits) / group_size if group_size and group_size > 0 else 0.0
    size = int(kept * 2 + (facts.parameters - kept) * (bits + overhead) / 8)
    return msgspec.structs.replace(facts, bytes=size, bits=round(8 * size / facts.parameters, 3))


def scaled(facts: Facts, dtype: str | None) -> Facts:
    """The same model with other numbers; that it is scaled for quantising matters to who serves it as it is."""
    extra = {**facts.extra, SCALED: "awq"}
    if dtype is None:
        return msgspec.structs.replace(facts, extra=extra)
    size = None if facts.parameters is None else facts.parameters * 2
    return msgspec.structs.replace(facts, dtype=dtype, bytes=size, bits=16.0, extra=extra)
