"""How things look on a terminal: escaped, aligned, coloured where colour is wanted."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a cursor, rings, hides or reverses text. Tab and newline are left to the caller."""
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "dim": 2, "bold": 1}
_LEAST = 12
"""Columns that the last one of a table gets on however narrow a terminal."""
STATES = {
    "ready": "green", "succeeded": "green", "cached": "green", "running": "cyan", "starting": "cyan",
    "waiting": "yellow", "backoff": "yellow", "idle": "blue", "unhealthy": "red", "failed": "red",
}  # fmt: skip


def clean(text: object, *, lines: bool = True) -> str:
    """Text of a stranger (a log, a name) made harmless: control characters are shown, not obeyed."""
    said = str(text)
    if not lines:
        said = said.replace("\n", "\\n").replace("\t", " ")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), said)


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether bars and cursor movements make sense on the stream (default: stderr)."""
    stream = stream or sys.stderr
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(stream: TextIO | None = None) -> bool:
    """Whether colour is wanted on the stream (default: stdout)."""
    stream = stream or sys.stdout
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def paint(text: str, colour: str | None, stream: TextIO | None = None) -> str:
    """The text in a colour, where colour is wanted."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colour and coloured(stream) else text


def size(count: float | None) -> str:
    """Bytes for people: `469 MiB`; empty where it is unknown."""
    if count is None:
        return ""
    units = iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while count >= 1024 and unit != "TiB":
        count, unit = count / 1024, next(units, "TiB")
    return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.3g} {unit}"


def count(number: int, noun: str) -> str:
    """`1 service`, `2 services`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float | None) -> str:
    """A time span for people: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`; empty where it is unknown."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def width(text: str) -> int:
    """Columns that the text takes; ideographs take two."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def table(rows: Iterable[Sequence[object]], headers: Sequence[str], *, right: Sequence[str] = ()) -> str:
    """A table for people. Columns that are empty throughout are left out; `right` are aligned to the right.

    On a terminal the last column is cut to its width; a pipe gets everything.
    """
    cells = [[clean("" if cell is None else cell, lines=False) for cell in row] for row in rows]
    shown = [i for i in range(len(headers)) if any(row[i] for row in cells)] if cells else range(len(headers))
    widths = {i: max(width(headers[i]), *(width(row[i]) for row in cells), 0) for i in shown}
    room = _columns()
    out = [_line(list(headers), widths, headers, right, room, header=True)]
    out += [_line(row, widths, headers, right, room) for row in cells]
    return "\n".join(out)


def _line(
    row: list[str],
    widths: dict[int, int],
    headers: Sequence[str],
    right: Sequence[str],
    room: int | None,
    header: bool = False,
) -> str:
    parts, used = [], 0
    for i, wide in widths.items():
        text = row[i]
        if i == max(widths) and room is not None:
            text = _cut(text, max(room - used, _LEAST))
        space = " " * (wide - width(text))
        colour = "bold" if header else STATES.get(text) if headers[i] == "STATE" else None
        painted = paint(text, colour)
        parts.append(space + painted if headers[i] in right else painted + space)
        used += wide + 2
    return "  ".join(parts).rstrip()


def _cut(text: str, room: int) -> str:
    if width(text) <= room:
        return text
    while width(text) > room - 1:
        text = text[:-1]
    return text + "…"


def _columns() -> int | None:
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        return None
