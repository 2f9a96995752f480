"""What serving a GGUF takes: weights, key/value cache by its number formats, headroom."""

from __future__ import annotations

import msgspec

from qwend.plugin import Estimate, StepView, cache_bytes, estimate

BYTES = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32,
    "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
"""Bytes of one cached number: a block of 32 with its scale (and minimum)."""


def need(step: StepView, context: int) -> Estimate | None:
    """Bytes by purpose, adapters and draft model counted as weights; None where a fact is unknown.

    `context` is that of all slots together, as llama.cpp allots it. Weights are mapped from the file, yet all of
    them are touched with each token: what does not fit is read again from the disk each time.
    """
    facts, params = step.inputs[0].facts, step.params
    base = estimate(facts, context)
    one = cache_bytes(facts, context, element=1)
    if base is None or one is None:
        return None
    keys, values = (BYTES[name or "f16"] for name in (params.cache_type_k, params.cache_type_v))
    cache = int(one / 2 * (keys + values))
    beside = sum(given.facts.bytes or 0 for name in ("lora", "draft") for given in step.given.get(name, ()))
    for draft in step.given.get("draft", ()):
        cache += cache_bytes(draft.facts, context) or 0
    return msgspec.structs.replace(base, weights=base.weights + beside, cache=cache)
