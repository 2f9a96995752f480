from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwend.core.gate import Gate, GateSyntaxError, Metric, evaluate, parse


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("mean_kld <= 0.05", Gate(Metric("mean_kld"), "<=", 0.05, None, "mean_kld <= 0.05")),
        (
            "quant[Q8_0].perplexity <= 1.01 * f16.perplexity",
            Gate(
                Metric("perplexity", "quant[Q8_0]"), "<=", 1.01, Metric("perplexity", "f16"),
                "quant[Q8_0].perplexity <= 1.01 * f16.perplexity",
            ),
        ),
        ("a.x>b.y", Gate(Metric("x", "a"), ">", 1.0, Metric("y", "b"), "a.x>b.y")),
        ("x != b.y * 2", Gate(Metric("x"), "!=", 2.0, Metric("y", "b"), "x != b.y * 2")),
        ("x >= -1e-5", Gate(Metric("x"), ">=", -1e-5, None, "x >= -1e-5")),
        ("x == y", Gate(Metric("x"), "==", 1.0, Metric("y"), "x == y")),
    ],
)  # fmt: skip
def test_a_comparison_is_taken_apart(text: str, gate: Gate) -> None:
    assert parse(text) == gate


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1), ("1 < x", 1), ("x", 2), ("x <", 4), ("x < ", 5), ("x < 1 2", 5), ("x < y z", 5), ("x + 1 < 2", 3),
        ("x =< 1", 3), ("x < 1 * 2", 5), ("x < 1 * 2 * y", 5), ("a[.x < 1", 2), ("A.b < 1", 1), ("x < 1e999", 5),
        ("x < nan", 0), ("x < 1x", 5), ("__import__('os') < 1", 11),
    ],
)  # fmt: skip
def test_what_is_no_comparison_is_refused_with_its_column(text: str, column: int) -> None:
    if column == 0:
        assert parse(text).right == Metric("nan"), "a word is a metric, whatever it means elsewhere"
        return
    with pytest.raises(GateSyntaxError) as caught:
        parse(text)
    assert caught.value.column == column


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("x <= 1", True), ("x < 1", False), ("x >= 1", True), ("x > 1", False), ("x == 1", True), ("x != 1", False),
        ("a.p <= 1.1 * b.p", True), ("a.p <= 1.01 * b.p", False), ("a.p < b.p", False),
    ],
)  # fmt: skip
def test_a_gate_compares_figures(text: str, holds: bool) -> None:
    assert evaluate(parse(text), {"x": 1.0, "a.p": 10.5, "b.p": 10.0}).holds is holds


def test_a_verdict_shows_the_figures() -> None:
    verdict = evaluate(parse("a.p <= 1.01 * b.p"), {"a.p": 10.5, "b.p": 10.0})
    assert verdict.figures == "a.p <= 1.01 * b.p: 10.5 <= 10.1"


def test_a_missing_figure_or_one_that_is_no_number_holds_nothing() -> None:
    assert evaluate(parse("x <= 1"), {}).figures == "x <= 1: the step reported no x"
    for sign in ("<=", ">=", "!=", "==", "<", ">"):
        assert not evaluate(parse(f"x {sign} 1"), {"x": math.nan}).holds
        assert not evaluate(parse(f"x {sign} y"), {"x": 1.0, "y": math.nan}).holds


@given(st.text(max_size=60))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    column, verdict = 1, False
    try:
        verdict = evaluate(parse(text), {}).holds
    except GateSyntaxError as error:
        column = error.column
    assert 1 <= column <= len(text) + 1
    assert verdict is False


def test_the_daemon_can_judge_gates_without_pydantic_or_yaml() -> None:
    code = (
        "import sys, qwend.core.gate, qwend.core.recipe_text; print({'pydantic', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "set()"
