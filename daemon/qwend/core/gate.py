"""Gates: the comparisons of `expect:`. Pure, and light enough for the daemon.

    gate   = metric OP bound            OP is one of <= < >= > == !=
    metric = [STEP "."] NAME            STEP may have a value of its matrix: quant[Q8_0].perplexity
    bound  = NUMBER | [NUMBER "*"] metric | metric "*" NUMBER

A name without a step is a metric of the step that the gate stands at. A metric that is missing or not a
number (NaN) holds nothing: the gate is refused.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from qwend.core.wording import number, quote, show

OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<=": operator.le, "<": operator.lt, ">=": operator.ge,
    ">": operator.gt, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip

_LONGEST = 512
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![A-Za-z0-9_]))"
    r"|(?P<metric>[A-Za-z_][A-Za-z0-9_]*(?:\[[A-Za-z0-9._+,-]+\])?(?:\.[A-Za-z_][A-Za-z0-9_]*)?)"
    r"|(?P<operator><=|>=|==|!=|<|>)|(?P<times>\*))"
)
_METRIC = re.compile(r"(?:(?P<step>[a-z][a-z0-9_]*(?:\[[^\]]+\])?)\.)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)")


class Metric(msgspec.Struct, frozen=True):
    """A figure in a step's report. `step` is None for the step that the gate stands at."""

    name: str
    step: str | None = None

    @property
    def key(self) -> str:
        """Its name in a report: `perplexity` or `quant[Q8_0].perplexity`."""
        return self.name if self.step is None else f"{self.step}.{self.name}"


class Gate(msgspec.Struct, frozen=True):
    """`left OP factor * right`; where `right` is None the factor is the bound itself."""

    left: Metric
    operator: str
    factor: float
    right: Metric | None
    text: str

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (self.left,) if self.right is None else (self.left, self.right)


class Verdict(msgspec.Struct, frozen=True):
    """Whether a gate holds, with the figures in one line for people."""

    holds: bool
    figures: str


class GateSyntaxError(ValueError):
    """What is wrong with a gate. `column` counts from 1."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.column = column


def parse(text: str) -> Gate:
    """A gate from `quant[Q8_0].perplexity <= 1.01 * f16.perplexity`. Raises GateSyntaxError."""
    tokens = _tokens(text)
    kinds = [kind for kind, _, _ in tokens]
    if kinds[:1] != ["metric"]:
        raise GateSyntaxError(f"{quote(text)} should begin with the name of a metric", 1)
    if kinds[1:2] != ["operator"]:
        at = tokens[1][2] if len(tokens) > 1 else len(text) + 1
        raise GateSyntaxError(f"{quote(text)} should go on with one of {' '.join(OPERATORS)}", at)
    left, sign, rest = _metric(tokens[0]), tokens[1][1], tokens[2:]
    match kinds[2:]:
        case ["number"]:
            return Gate(left, sign, _number(rest[0]), None, text.strip())
        case ["metric"]:
            return Gate(left, sign, 1.0, _metric(rest[0]), text.strip())
        case ["number", "times", "metric"]:
            return Gate(left, sign, _number(rest[0]), _metric(rest[2]), text.strip())
        case ["metric", "times", "number"]:
            return Gate(left, sign, _number(rest[2]), _metric(rest[0]), text.strip())
        case _:
            at = rest[0][2] if rest else len(text) + 1
            raise GateSyntaxError(f"{quote(text)} should end with a number, or NUMBER * STEP.METRIC", at)


def figures(
    step: str, own: Mapping[str, float], others: Iterable[tuple[str, Mapping[str, float]]]
) -> dict[str, float]:
    """What the gates of a step may speak of: its own figures, plain and by its name (those of the models that it
    measured stand there as `quant[Q8_0].perplexity`), and then those that other steps told of themselves."""
    found = {f"{step}.{name}": value for name, value in own.items()} | dict(own)
    for other, told in others:
        for name, value in told.items():
            found.setdefault(f"{other}.{name}", value)
    return found


def evaluate(gate: Gate, metrics: Mapping[str, float]) -> Verdict:
    """Whether the gate holds for a step's metrics (`perplexity`, `quant[Q8_0].perplexity`)."""
    missing = [metric.key for metric in gate.metrics if metric.key not in metrics]
    if missing:
        return Verdict(False, f"{gate.text}: the step reported no {' and no '.join(missing)}")
    left = metrics[gate.left.key]
    bound = gate.factor if gate.right is None else gate.factor * metrics[gate.right.key]
    holds = not (math.isnan(left) or math.isnan(bound)) and OPERATORS[gate.operator](left, bound)
    return Verdict(holds, f"{gate.text}: {_figure(left)} {gate.operator} {_figure(bound)}")


def _tokens(text: str) -> list[tuple[str, str, int]]:
    if len(text) > _LONGEST:
        raise GateSyntaxError(f"a gate is at most {_LONGEST} characters long", 1)
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            rest = text[at:].lstrip()
            raise GateSyntaxError(
                f"{quote(text)} is no comparison: {quote(rest, 20)} is not understood",
                len(text) - len(rest) + 1,
            )
        found.append((match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1))
        at = match.end()
    return found


def _metric(token: tuple[str, str, int]) -> Metric:
    match = _METRIC.fullmatch(token[1])
    if match is None:
        raise GateSyntaxError(
            f"{quote(token[1])} is no metric; write NAME, STEP.NAME or STEP[VALUE].NAME", token[2]
        )
    return Metric(match["name"], match["step"])


def _number(token: tuple[str, str, int]) -> float:
    value = float(token[1])
    if math.isinf(value):
        raise GateSyntaxError(f"{show(token[1], 40)} is too large a number", token[2])
    return value


def _figure(value: float) -> str:
    return number(float(f"{value:.6g}")) if math.isfinite(value) else str(value)
