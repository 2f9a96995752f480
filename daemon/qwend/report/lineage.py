"""The picture of how steps follow from each other: boxes in columns by distance from the sources, curves between."""

from __future__ import annotations

from html import escape
from typing import Any

BOX_W, BOX_H, GAP_X, GAP_Y, EDGE = 176.0, 50.0, 56.0, 16.0, 8.0
_MOST = 400
"""Steps that are drawn; beyond that a picture tells nothing."""


def lineage(steps: list[dict[str, Any]]) -> str:
    """The picture, as wide as it needs to be."""
    if not steps or len(steps) > _MOST:
        return ""
    columns = _columns(steps)
    tall = max(len(column) for column in columns)
    height = tall * (BOX_H + GAP_Y) - GAP_Y + 2 * EDGE
    width = len(columns) * (BOX_W + GAP_X) - GAP_X + 2 * EDGE
    places: dict[str, tuple[float, float]] = {}
    for index, column in enumerate(columns):
        used = len(column) * (BOX_H + GAP_Y) - GAP_Y
        for row, step in enumerate(column):
            at = (height - used) / 2 + row * (BOX_H + GAP_Y)
            places[step["name"]] = (EDGE + index * (BOX_W + GAP_X), at)
    parts = [
        _edge(places, above, step["name"]) for step in steps for above in _reads(step) if above in places
    ]
    parts += [_box(step, *places[step["name"]]) for step in steps]
    return (
        f'<div class="wide"><svg class="lineage" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="how the steps follow from each other">'
        f"{''.join(parts)}</svg></div>"
    )


def _reads(step: dict[str, Any]) -> list[str]:
    return [*(step.get("inputs") or ()), *(step.get("needs") or ())]


def _columns(steps: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Steps come after what they read, so one pass finds each one's column. Within a column a step stands near those
    that it reads."""
    depth: dict[str, int] = {}
    for step in steps:
        depth[step["name"]] = 1 + max((depth[name] for name in _reads(step) if name in depth), default=-1)
    columns: list[list[dict[str, Any]]] = [[] for _ in range(max(depth.values()) + 1)]
    for step in steps:
        columns[depth[step["name"]]].append(step)
    rank: dict[str, float] = {}
    for column in columns:
        column.sort(key=lambda step: _middle(step, rank))
        for index, step in enumerate(column):
            rank[step["name"]] = (index + 0.5) / len(column)
    return columns


def _middle(step: dict[str, Any], rank: dict[str, float]) -> float:
    above = [rank[name] for name in _reads(step) if name in rank]
    return sum(above) / len(above) if above else 0.0


def _edge(places: dict[str, tuple[float, float]], above: str, below: str) -> str:
    (x0, y0), (x1, y1) = places[above], places[below]
    x0, y0, y1 = x0 + BOX_W, y0 + BOX_H / 2, y1 + BOX_H / 2
    bend = max(24.0, (x1 - x0) / 2)
    path = f"M{x0:.0f} {y0:.1f}C{x0 + bend:.0f} {y0:.1f} {x1 - bend:.0f} {y1:.1f} {x1:.0f} {y1:.1f}"
    return f'<path class="edge" d="{path}"><title>{escape(f"{above} → {below}")}</title></path>'


def _box(step: dict[str, Any], x: float, y: float) -> str:
    state = str(step.get("state") or "")
    kind = step.get("kind")
    told = f"{step['name']}: {step['engine']}" + (f", {state}" if state else "")
    return (
        f'<g class="box {escape(str(kind))} {_class(state)}"><title>{escape(told)}</title>'
        f'<rect x="{x:.0f}" y="{y:.1f}" width="{BOX_W:.0f}" height="{BOX_H:.0f}" rx="8"/>'
        f'<text class="name" x="{x + 12:.0f}" y="{y + 21:.1f}">{escape(_cut(step["name"], 20))}</text>'
        f'<text class="what" x="{x + 12:.0f}" y="{y + 38:.1f}">{escape(_cut(step["engine"], 25))}</text></g>'
    )


def _class(state: str) -> str:
    good = {"succeeded", "cached", "ready"}
    bad = {"failed", "unhealthy", "cancelled"}
    return "good" if state in good else "bad" if state in bad else "other"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
