from __future__ import annotations

import pytest

from qwend.core.figures import unknown

FIGURES = {
    "quality": frozenset(
        {"f16.perplexity", "quant[Q8_0].perplexity", "quant[Q8_0].mean_kld", "f16.speed_at_6144"}
    ),
    "plain": frozenset({"perplexity", "f16.perplexity"}),
    "silent": None,
    "f16": None,
    "rows": frozenset({"rows"}),
}


@pytest.mark.parametrize(
    ("step", "gate"),
    [
        ("quality", "quant[Q8_0].perplexity <= 1.01 * f16.perplexity"),
        ("quality", "f16.speed_at_6144 > 3"),
        ("quality", "plain.perplexity < 9"),
        ("quality", "rows.rows == 200"),
        ("plain", "perplexity <= 20"),
        ("plain", "plain.perplexity <= 20"),
        ("silent", "whatever <= 1"),
        ("silent", "rows.anything <= 1"),
        ("quality", "silent.anything <= 1"),
    ],
)
def test_a_gate_on_a_figure_that_will_be_there_or_cannot_be_told_holds_the_plan_up_for_nothing(
    step: str, gate: str
) -> None:
    assert unknown(gate, step, FIGURES) is None


@pytest.mark.parametrize(
    ("step", "gate", "message", "hint"),
    [
        (
            "quality",
            "quant[Q8_0].mean_kdl <= 0.1",
            'quant[Q8_0] will have no figure "mean_kdl"; did you mean mean_kld?',
            "it has mean_kld, perplexity",
        ),
        (
            "quality",
            "perplexity <= 9",
            'quality will have no figure "perplexity"',
            "it is not measured there",
        ),
        (
            "plain",
            "perplexty <= 9",
            'plain will have no figure "perplexty"; did you mean perplexity?',
            "it has perplexity",
        ),
        ("quality", "rows.row == 3", 'rows will have no figure "row"; did you mean rows?', "it has rows"),
        ("quality", "f16.mean_kld <= 1", 'f16 will have no figure "mean_kld"', "it has perplexity"),
    ],
)
def test_a_figure_that_no_report_will_have_is_told_with_those_that_it_has(
    step: str, gate: str, message: str, hint: str
) -> None:
    assert unknown(gate, step, FIGURES) == (message, hint)
