"""How much memory a model needs to serve: weights, key/value cache and headroom. Arithmetic on facts.

It stands this low because engines (through the plugin door), the compiler and the planner all use it. An
unknown fact gives an unknown answer (None), never a guess that reads like one.
"""

from __future__ import annotations

import msgspec

from qwend.model.artifact import Facts

GIB = 1024**3
HEADROOM = GIB // 2
"""Bytes for compute buffers and the engine itself: half a GiB covers the logits of one batch of 512 tokens
over Qwen's vocabulary of 151,936 in 32 bits (297 MiB) and the program."""
HEADROOM_SHARE = 0.05
"""And so much of the weights, for the buffers that grow with the model."""
LOAD_RATE = 50 * 1024**2
"""Bytes of weights that even a slow disk reads in a second: the start deadline grows by it."""


class Estimate(msgspec.Struct, frozen=True):
    """Bytes by purpose; `context` in tokens is the length that the cache was reckoned for."""

    weights: int
    cache: int
    headroom: int
    context: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.headroom

    def describe(self) -> str:
        """`weights 4.4 GiB, KV cache 0.4 GiB for a context of 8192, headroom 0.7 GiB`."""
        return (
            f"weights {human(self.weights)}, KV cache {human(self.cache)} for a context of {self.context}, "
            f"headroom {human(self.headroom)}"
        )


_TOKEN_BYTES = {"model/gguf": 39, "model/ollama": 0}
_TOKEN_BYTES_OF_A_FOLDER = 75
"""What a token and its merges take on disk: in a GGUF's header, and in a checkpoint's tokenizer.json, vocab.json and
merges.txt (measured with Qwen's vocabulary: 39.0 in a GGUF, 72.6 to 75.2 in folders)."""


def weight_bytes(facts: Facts, bits: float | None = None) -> int | None:
    """Bytes of the weights in memory: the size on disk, or `bits` per parameter where they are given."""
    if bits is not None:
        return None if facts.parameters is None else int(facts.parameters * bits / 8)
    if facts.bytes is not None:
        return facts.bytes
    if facts.parameters is not None and facts.bits is not None:
        return int(facts.parameters * facts.bits / 8)
    return None


def vocabulary_bytes(type_: str, facts: Facts) -> int:
    """Bytes that a model of this type keeps on disk beside its weights: its vocabulary. A tenth of a tiny model,
    nothing that counts of a large one; 0 for what is no model or has no known vocabulary."""
    if not type_.startswith("model/") or facts.vocabulary is None:
        return 0
    return facts.vocabulary * _TOKEN_BYTES.get(type_, _TOKEN_BYTES_OF_A_FOLDER)


def cache_bytes(facts: Facts, context: int, *, sequences: int = 1, element: int = 2) -> int | None:
    """Bytes of the key/value cache: `2 (K and V) x layers x kv_heads x head_dim x context x element`, for each of
    `sequences` that have a context of their own. `element` is the size of one number (2: f16)."""
    if facts.layers is None or facts.kv_heads is None or facts.head_dim is None:
        return None
    return 2 * facts.layers * facts.kv_heads * facts.head_dim * context * element * sequences


def estimate(
    facts: Facts,
    context: int | None = None,
    *,
    sequences: int = 1,
    element: int = 2,
    bits: float | None = None,
) -> Estimate | None:
    """What serving takes; None where a fact that it needs is unknown. Without `context` the trained one counts."""
    length = context or facts.context
    weights = weight_bytes(facts, bits)
    if weights is None or length is None:
        return None
    cache = cache_bytes(facts, length, sequences=sequences, element=element)
    if cache is None:
        return None
    return Estimate(weights, cache, HEADROOM + int(weights * HEADROOM_SHARE), length)


def human(count: float) -> str:
    """Bytes for people: `512 B`, `3.4 KiB`, `4.7 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
