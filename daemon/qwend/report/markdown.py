"""A report as Markdown, for an issue or a README."""

from __future__ import annotations

import time
from collections.abc import Sequence

from qwend.report import data as gathered
from qwend.report.data import Json


def markdown(data: Json) -> str:
    """The tables of the page, without its pictures."""
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(data["made"]))
    parts = [f"# {data['recipe']}", f"{made}, qwend {data['version']}."]
    if data.get("smoke"):
        parts.append("Made with tiny stand-ins (`--smoke`): the figures prove the chain, not the model.")
    gates = [
        [step, "holds" if gate["holds"] else "FAILS", gate["figures"]] for step, gate in gathered.gates(data)
    ]
    if gates:
        parts += ["## Gates", _table(["step", "gate", "figures"], gates, right=False)]
    for comparison in gathered.comparisons(data):
        parts += [f"## Figures: {_plain(comparison.title)}", _table(*gathered.figure_table(comparison))]
        speeds = gathered.speed_table(comparison)
        if speeds:
            parts.append(_table(*speeds))
        if comparison.method:
            parts.append(f"Perplexity: {comparison.method}.")
    for step, curves in gathered.curves(data):
        ends = [
            [name, f"{points[0][1]:.4g}", f"{points[-1][1]:.4g}", f"{points[-1][0]:.0f}"]
            for name, points in curves.items()
        ]
        parts += [f"## Training: {_plain(step)}", _table(["figure", "first", "last", "at step"], ends)]
    parts += ["## Steps", _table(*gathered.step_table(data), right=False)]
    parts += ["## Machine and versions", _table(["", ""], gathered.machine(data["host"]), right=False)]
    versions = gathered.version_rows(data)
    if versions:
        parts.append(_table(["kind", "name", "digest"], versions, right=False))
    parts += ["## Do it again", f"```sh\n{gathered.commands(data)}\n```"]
    return "\n\n".join(parts) + "\n"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True) -> str:
    marks = ["---", *("--:" if right else "---" for _ in headers[1:])]
    lines = [headers, marks, *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that makes no markup: a name may hold anything."""
    kept = " ".join(str(text).split())
    return "".join(f"\\{char}" if char in "\\`*_[]<>|" else char for char in kept)
