"""The types that llama-quantize knows, and how large each makes a model.

The figures were read from `llama-quantize --dry-run` (llama.cpp 0c1e57098) over headers with the shapes of
Qwen2.5 0.5B, 3B, 7B and 32B and Qwen3 0.6B; a test holds the estimates to those readings.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from qwend.plugin import Facts

Type = Literal[
    "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_K_S", "Q5_K_S", "Q3_K_M", "Q3_K_L", "Q3_K_S", "Q2_K", "Q2_K_S",
    "IQ4_XS", "IQ4_NL", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S",
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_0", "Q1_0", "TQ1_0", "TQ2_0", "MXFP4_MOE", "F16", "BF16", "F32",
    "Q3_K", "Q4_K", "Q5_K",
]  # fmt: skip
"""In the order in which one would try them; the last three are aliases."""

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

TensorType = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "q3_k", "q2_k", "iq4_nl",
    "iq4_xs", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s", "tq1_0", "tq2_0", "mxfp4",
]  # fmt: skip
"""Types of single tensors, as ggml names them."""

UNQUANTISED = frozenset({"F32", "F16", "BF16"})

NEEDS_IMATRIX = frozenset(
    {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"}
)
"""Types that the tool refuses to make without an importance matrix (`tensor_requires_imatrix`, `--dry-run`)."""

_BLOCK = 256
"""K-quants and i-quants pack rows in blocks of 256 weights; rows that are no multiple get a larger type."""


class Size(NamedTuple):
    """Bits per weight: of the layers, of the output tensor, and of layers whose rows do not fill blocks."""

    body: float
    output: float = 6.5625
    fallback: float | None = None


SIZES: dict[str, Size] = {
    "Q1_0": Size(1.25), "Q2_0": Size(2.41), "Q4_0": Size(4.55), "Q4_1": Size(5.04),
    "Q5_0": Size(5.53), "Q5_1": Size(6.01),
    "Q8_0": Size(8.5, 8.5), "MXFP4_MOE": Size(8.5, 8.5),
    "Q2_K": Size(3.00, fallback=4.5), "Q2_K_S": Size(2.80, fallback=4.5),
    "Q3_K_S": Size(3.51, fallback=4.5), "Q3_K_M": Size(3.89, fallback=4.75), "Q3_K_L": Size(4.21, fallback=5.0),
    "Q4_K_S": Size(4.58, fallback=5.4), "Q4_K_M": Size(4.85, fallback=5.6),
    "Q5_K_S": Size(5.53, fallback=6.0), "Q5_K_M": Size(5.68, fallback=6.1), "Q6_K": Size(6.5625, fallback=8.0),
    "IQ1_S": Size(1.77, 5.5, 4.5), "IQ1_M": Size(1.93, 5.5, 4.5),
    "IQ2_XXS": Size(2.20, 5.5, 4.5), "IQ2_XS": Size(2.43, 5.5, 4.5),
    "IQ2_S": Size(2.53, 5.5, 4.5), "IQ2_M": Size(2.75, 5.5, 4.5),
    "IQ3_XXS": Size(3.27, 5.5, 4.5), "IQ3_XS": Size(3.34, fallback=4.5),
    "IQ3_S": Size(3.52, fallback=4.5), "IQ3_M": Size(3.61, fallback=4.5),
    "IQ4_XS": Size(4.36, fallback=4.6), "IQ4_NL": Size(4.59),
    "TQ1_0": Size(1.87, fallback=4.5), "TQ2_0": Size(2.23, fallback=4.5),
    "F16": Size(16, 16), "BF16": Size(16, 16), "F32": Size(32, 32),
}  # fmt: skip


def canonical(type_: str) -> str:
    """The type that an alias stands for."""
    return ALIASES.get(type_, type_)


def fills_blocks(facts: Facts) -> bool:
    """Whether rows of the model's width are a multiple of a K-quant's block; unknown counts as yes."""
    return facts.hidden is None or facts.hidden % _BLOCK == 0


def is_mixture(facts: Facts) -> bool:
    """Whether the model is a mixture of experts (`qwen3moe`, `qwen3_moe`)."""
    return "moe" in (facts.architecture or "")


def bits_per_weight(type_: str, facts: Facts) -> float:
    """Bits per weight of a whole model of this shape, its embeddings (kept at a larger type) counted in."""
    size = SIZES[canonical(type_)]
    body, output = size.body, size.output
    if type_ == "MXFP4_MOE" and is_mixture(facts):
        body = 4.5  # the experts, which are nearly all of it; a dense model has none and becomes q8_0
    if not fills_blocks(facts):
        body = size.fallback if size.fallback is not None else body
        output = max(output, 8.5) if output < 16 else output  # q6_K falls back to q8_0
    if not (facts.parameters and facts.vocabulary and facts.hidden):
        return body
    share = min(1.0, facts.vocabulary * facts.hidden / facts.parameters)
    return body * (1 - share) + output * share
