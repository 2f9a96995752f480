"""Steps as Python sees them: plain data that shows itself as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_OVER = {"job": {"succeeded", "cached"}, "service": {"ready"}, "source": {"succeeded", "cached"}}


@dataclass(frozen=True)
class Step:
    """A step as `ps` shows it. Times in seconds, sizes in bytes; None is unknown or does not apply."""

    recipe: str
    step: str
    kind: str
    engine: str
    state: str
    reason: str | None = None
    url: str | None = None
    port: int | None = None
    pid: int | None = None
    runtime: str | None = None
    image: str | None = None
    artifact: str | None = None
    size: int | None = None
    seconds: float | None = None
    started: float | None = None
    health: str | None = None
    fingerprint: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ready(self) -> bool:
        """Whether a service answers, or a job's artifact is there."""
        return self.state in _OVER.get(self.kind, ())


@dataclass(frozen=True)
class Run:
    """What `up` came to: the steps of the recipe, in order."""

    recipe: str
    steps: tuple[Step, ...]

    def __getitem__(self, name: str) -> Step:
        for step in self.steps:
            if step.step == name:
                return step
        raise KeyError(
            f"{self.recipe} has no step {name!r}; it has {', '.join(step.step for step in self.steps)}"
        )

    def __str__(self) -> str:
        return _table(self.steps)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


class Rows(tuple[Step, ...]):
    """Steps; a notebook shows them as a table."""

    def __str__(self) -> str:
        return _table(self)

    __repr__ = __str__


def step_of(row: Mapping[str, Any]) -> Step:
    """A row of the daemon as a Step."""
    known = {name: row.get(name) for name in Step.__dataclass_fields__ if name != "raw" and name in row}
    return Step(**known, raw=row)  # type: ignore[arg-type]


def _table(rows: Sequence[Step]) -> str:
    if not rows:
        return "no steps"
    head = ("RECIPE", "STEP", "STATE", "ENGINE", "URL", "REASON")
    cells = [head, *((r.recipe, r.step, r.state, r.engine, r.url or "", r.reason or "") for r in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)
