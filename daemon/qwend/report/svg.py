"""Small charts as inline SVG. Colours come from the page's style, so that they follow light and dark.

Coordinates are of a fixed width; the picture scales with the page. Every mark has a `<title>` that a pointer shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 20.0, 16.0, 44.0
SERIES = 8
"""So many series get a colour of their own; the next ones are dashed."""


@dataclass(frozen=True)
class Point:
    """A mark: where, what it is called, what the pointer is told."""

    x: float
    y: float
    label: str = ""
    title: str = ""


@dataclass(frozen=True)
class Axis:
    """One axis: from the lowest to the highest value, even or by powers of ten."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value is between the ends, 0 to 1."""
        if self.log:
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(max(value, self.low))
        else:
            low, high = self.low, self.high
        return 0.5 if high == low else (value - low) / (high - low)


def axis(values: Sequence[float], *, zero: bool = False, log: bool = False) -> Axis:
    """An axis with round ticks around the values."""
    low, high = min(values), max(values)
    if log and low > 0:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        last = max(last, first + 1)
        every = -(-(last - first) // 6)
        return Axis(10.0**first, 10.0**last, tuple(10.0**n for n in range(first, last + 1, every)), True)
    if zero:
        low = min(0.0, low)
    if low == high:
        low, high = low - abs(low) * 0.05 - 1e-9, high + abs(high) * 0.05 + 1e-9
    step = _step((high - low) / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return Axis(first * step, last * step, tuple(n * step for n in range(first, last + 1)))


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def number(value: float) -> str:
    """A tick's text."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, _, power = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}"
    return f"{value:,.6g}"


def scatter(
    points: Sequence[Point], x_title: str, y_title: str, *, log: bool = False, level: Point | None = None
) -> str:
    """Labelled marks; `level` is a line across at its y, for a reference."""
    xs = [point.x for point in points]
    ys = [point.y for point in points] + ([level.y] if level else [])
    across, up = axis(_padded(xs)), axis(ys, log=log and min(ys) > 0)
    parts = [_frame(across, up, x_title, y_title)]
    if level is not None:
        y = _y(up, level.y)
        parts.append(
            f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}">'
            f"<title>{escape(level.label)}</title></line>"
        )
    if len(points) > 1:
        line = sorted(points, key=lambda point: point.x)
        parts.append(_path([(_x(across, point.x), _y(up, point.y)) for point in line], "thread"))
    placed: list[tuple[float, float, float]] = []
    for point in points:
        x, y = _x(across, point.x), _y(up, point.y)
        parts.append(_mark(x, y, 5, "s0", point.title))
        parts.append(_label(point.label, x, y, placed))
    return _picture("".join(parts), f"{y_title} by {x_title}")


def lines(
    series: Sequence[tuple[str, Sequence[Point]]], x_title: str, y_title: str, *, zero: bool = False
) -> str:
    """Lines over a common axis, each with its name at its end."""
    every = [point for _, points in series for point in points]
    across, up = axis([point.x for point in every]), axis([point.y for point in every], zero=zero)
    marked = all(len(points) <= 24 for _, points in series)
    parts = [_frame(across, up, x_title, y_title)]
    for index, (_, points) in enumerate(series):
        colour = f"s{index % SERIES}"
        places = [(_x(across, point.x), _y(up, point.y)) for point in points]
        parts.append(_path(places, f"line {colour}{' dashed' if index >= SERIES else ''}"))
        if marked:
            parts += [
                _mark(x, y, 4, colour, point.title) for (x, y), point in zip(places, points, strict=True)
            ]
    legend = _legend([name for name, _ in series]) if len(series) > 1 else ""
    return legend + _picture("".join(parts), f"{y_title} by {x_title}")


def bars(rows: Sequence[Point], title: str) -> str:
    """Horizontal bars from zero, the value at the end of each; `x` is the value."""
    height = 26.0 * len(rows) + 8
    wide = max((8.6 * len(row.label) for row in rows), default=0)
    left = min(max(90.0, wide + 14), 250.0)
    most = max((row.x for row in rows), default=1) or 1
    parts = []
    for index, row in enumerate(rows):
        y, length = 6 + 26.0 * index, (WIDTH - left - 90) * row.x / most
        flat = max(length - 4, 0)
        parts.append(
            f'<text class="tick" x="{left - 10}" y="{y + 14}" text-anchor="end">{escape(_cut(row.label, 27))}</text>'
        )
        parts.append(
            f'<path class="bar s0" d="M{left} {y}h{flat:.1f}q4 0 4 4v10q0 4 -4 4h-{flat:.1f}z">'
            f"<title>{escape(row.title)}</title></path>"
        )
        parts.append(
            f'<text class="value" x="{left + length + 8:.1f}" y="{y + 14}">{escape(number(round(row.x, 1)))}</text>'
        )
    return _picture("".join(parts), title, height=height)


def _mark(x: float, y: float, radius: int, colour: str, title: str) -> str:
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
    return f'<circle class="mark {colour}" {place}><title>{escape(title)}</title></circle>'


def _padded(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return [max(0.0, low - room) if low >= 0 else low - room, high + room]


def _x(across: Axis, value: float) -> float:
    return LEFT + across.share(value) * (WIDTH - LEFT - RIGHT)


def _y(up: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - up.share(value) * (HEIGHT - TOP - BOTTOM)


def _frame(across: Axis, up: Axis, x_title: str, y_title: str) -> str:
    """Grid, ticks and titles."""
    parts = []
    for tick in up.ticks:
        y = _y(up, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for tick in across.ticks:
        x = _x(across, tick)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number(tick)}</text>'
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="title" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>'
    )
    return "".join(parts)


def _label(text: str, x: float, y: float, placed: list[tuple[float, float, float]]) -> str:
    """A name beside its mark, where no other one stands; in a crowd none: the mark and the table tell it."""
    text = _cut(text, 24)
    wide = 7.8 * len(text)
    sides = [at for at in (x + 9, x - 9 - wide) if at >= LEFT and at + wide <= WIDTH - 2]
    for at in sides or [x + 9]:
        for wanted in (y + 4, y - 9, y + 18, y - 22, y + 31):
            up = min(max(wanted, TOP + 2), HEIGHT - BOTTOM - 4)
            if all(abs(up - b) > 12 or at > a + w or a > at + wide for a, b, w in placed):
                placed.append((at, up, wide))
                return f'<text class="label" x="{at:.1f}" y="{up:.1f}">{escape(text)}</text>'
    return ""


def _path(places: Sequence[tuple[float, float]], kind: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{kind}" points="{points}"/>'


def _legend(names: Sequence[str]) -> str:
    items = (
        f'<li><i class="key s{index % SERIES}"></i>{escape(name)}</li>' for index, name in enumerate(names)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _picture(inside: str, title: str, height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'preserveAspectRatio="xMidYMid meet">{inside}</svg>'
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
