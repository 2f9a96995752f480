"""How long work is shown: bars on a terminal, plain lines elsewhere (a pipe, a notebook's cell, TERM=dumb).

Everything goes to stderr but what the command was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click

from qwend.cli.terminal import STATES, clean, duration, is_terminal, size
from qwend.cli.verbs import spelled
from qwend.client import Json

_EVERY = 10.0
"""A plain line at least every so many per cent …"""
_PATIENCE_S = 15.0
"""… and, where no total is known, every so many seconds."""
_SCALED = {"B", "bytes"}
QUIET = {"pending", "waiting", "idle"}
"""States that are worth a line only with a reason."""


class Display(Protocol):
    """Where the news of a stream go."""

    def progress(self, news: Json) -> None:
        """How far something is: the API's Progress."""

    def event(self, event: Json) -> None:
        """Something happened: the API's Event."""

    def say(self, text: str, *, colour: str | None = None) -> None:
        """A line that stays."""


@contextmanager
def display() -> Iterator[Display]:
    """The right Display for stderr. rich is imported here, where a bar will be drawn, and nowhere else."""
    if is_terminal():
        from qwend.cli.bars import Bars

        with Bars() as bars:
            yield bars
    else:
        yield Plain()


def describe(event: Json) -> str | None:
    """An event as one line, None for one that tells a user nothing: `chat: ready`, `q4: failed: out of memory`."""
    noun, _, what = event["kind"].partition(".")
    reason = f": {event['reason']}" if event.get("reason") else ""
    if noun in {"service", "job"}:
        row = event.get("row") or {}
        state = row.get("state") or what
        if not reason and (state in QUIET or what == "changed"):
            return None
        return (
            f"{subject(event['subject'])}: {state}{reason}"
            if state != "changed"
            else f"{subject(event['subject'])}{reason}"
        )
    if noun in {"image", "gate"}:
        return f"{subject(event['subject'])}: {noun} {what}{reason}"
    return None


def subject(key: str) -> str:
    """`recipe/step` as the step: a command speaks of one recipe."""
    return key.partition("/")[2] or key


def amounts(news: Json) -> str:
    """`120 MiB of 469 MiB, 33 MiB/s, 10 s left`: as much of it as is known."""
    done, total, rate = news.get("done"), news.get("total"), news.get("rate")
    unit = news.get("unit", "")
    parts = []
    if unit == "%" and done is not None:
        parts.append(f"{done:.0f} %")
    elif done is not None:
        before = _number(done) if total and unit not in _SCALED else _amount(done, unit)
        parts.append(before + (f" of {_amount(total, unit)}" if total else ""))
    if rate:
        if unit != "%":
            parts.append(f"{_amount(rate, unit)}/s")
        if total and done is not None and done < total:
            parts.append(f"{duration((total - done) / rate)} left")
    return ", ".join(parts)


def _amount(value: float, unit: str) -> str:
    if unit in _SCALED:
        return size(value)
    plural = "s" if unit and value != 1 and not unit.endswith("s") else ""
    return f"{_number(value)} {unit}{plural}".rstrip()


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


class Plain:
    """A line per phase, then one about every 10 % (or every 15 s where no total is known)."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, float, float]] = {}
        self._said = ""

    def progress(self, news: Json) -> None:
        name, phase = news.get("subject", ""), news.get("phase", "")
        done, total = news.get("done"), news.get("total")
        percent = 100.0 * done / total if done is not None and total else 0.0
        now = time.monotonic()
        before = self._last.get(name)
        same = before is not None and before[0] == phase
        if before is not None and same:
            ended = percent >= 100.0 > before[1]
            if not ended and percent - before[1] < _EVERY and (total or now - before[2] < _PATIENCE_S):
                return
        self._last[name] = (phase, percent, now)
        done_of_all = f"{percent:.0f} %" if total and news.get("unit") != "%" else ""
        detail = ", ".join(filter(None, (done_of_all, amounts(news), news.get("message", ""))))
        self.say(": ".join(part for part in (subject(name), " ".join(filter(None, (phase, detail)))) if part))

    def event(self, event: Json) -> None:
        line = describe(event)
        if line is not None:
            self.say(line)

    def say(self, text: str, *, colour: str | None = None) -> None:
        if text != self._said:  # a crash loop says the same thing again and again
            click.echo(spelled(clean(text, lines=False)), err=True)
        self._said = text


def state_colour(line: str) -> str | None:
    """The colour of a line that `describe` made."""
    words = line.partition(": ")[2].split(":")[0].split()
    return STATES.get(words[0]) if words else None


def follow(stream: Iterator[Json], shown: Display) -> Json:
    """Shows a stream until its `end`, which is given back ({} where there is none)."""
    end: Json = {}
    for item in stream:
        if "progress" in item:
            shown.progress(item["progress"])
        if "event" in item:
            shown.event(item["event"])
        if "notice" in item:
            shown.say(item["notice"], colour="yellow")
        if "end" in item:
            end = item["end"] or {}
    return end
