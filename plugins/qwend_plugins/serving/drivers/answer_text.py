"""From tokens to what a client reads: text piece by piece, stop strings, thinking and tool calls.

Standard library only. Pieces go through three stages: `Decoder` (whole characters only), `StopFilter` (nothing that may
be the beginning of a stop string is let out) and `Splitter` (what stands in `<think>` and `<tool_call>`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class Decoder:
    """Turns tokens into text; a character is given when all of its bytes are there.

    Tokens are decoded with those before them, since a piece alone may lose its leading space.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self.tokens: list[int] = []
        self._from, self._read = 0, 0

    def add(self, token: int) -> str:
        """The text that this token completes."""
        self.tokens.append(token)
        return self._news()

    def rest(self) -> str:
        """What is left at the end: an unfinished character shows as U+FFFD."""
        return self._news(final=True)

    def _news(self, final: bool = False) -> str:
        before = self._decode(self.tokens[self._from : self._read])
        now = self._decode(self.tokens[self._from :])
        if len(now) <= len(before) or (now.endswith(_BROKEN) and not final):
            return ""
        self._from, self._read = self._read, len(self.tokens)
        return now[len(before) :]


class StopFilter:
    """Ends the text before the first stop string; holds back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            out, self._held, self.stopped = self._held[: min(found)], "", True
            return out
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def rest(self) -> str:
        out, self._held = self._held, ""
        return out


def _overlap(text: str, mark: str) -> int:
    """How many last characters of `text` are the first of `mark`."""
    longest = min(len(text), len(mark) - 1)
    return next((size for size in range(longest, 0, -1) if mark.startswith(text[-size:])), 0)


@dataclass(frozen=True)
class Piece:
    """A part of an answer: `text`, `thought`, or a whole tool call (`text` is its JSON arguments)."""

    kind: Literal["text", "thought", "call"]
    text: str
    name: str = ""


@dataclass
class Answer:
    """How an answer ended: `stop`, `length`, or `cancelled`; and how many tokens it took."""

    prompt_tokens: int
    tokens: int = 0
    finish: str = "stop"
    pieces: list[Piece] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces if piece.kind == "text")


class Splitter:
    """Takes Qwen's `<think>…</think>` and `<tool_call>…</tool_call>` out of the text, where they are asked for.

    A call that is no JSON of a name and arguments stays text, as the model wrote it.
    """

    def __init__(self, thoughts: bool, calls: bool, thinking: bool = False) -> None:
        self._marks = {"<think>": "</think>"} if thoughts else {}
        if calls:
            self._marks["<tool_call>"] = "</tool_call>"
        self._held = ""
        self._open: str | None = "<think>" if thoughts and thinking else None
        self._skip = False

    def add(self, text: str) -> Iterator[Piece]:
        if not self._marks:
            yield from _plain("text", text)
            return
        self._held += text
        while self._held:
            before = self._held, self._open
            yield from self._outside() if self._open is None else self._inside()
            if (self._held, self._open) == before:
                return

    def rest(self) -> Iterator[Piece]:
        held, self._held = self._held, ""
        if self._open == "<tool_call>":
            yield from _plain("text", f"<tool_call>{held}")
        else:
            yield from _plain("thought" if self._open else "text", held)

    def _outside(self) -> Iterator[Piece]:
        if self._skip:
            self._held = self._held.lstrip("\n")
            self._skip = not self._held
        found = min(((at, mark) for mark in self._marks if (at := self._held.find(mark)) >= 0), default=None)
        if found is not None:
            at, mark = found
            text, self._held, self._open = self._held[:at], self._held[at + len(mark) :], mark
            yield from _plain("text", text.rstrip("\n") if mark == "<tool_call>" else text)
            return
        keep = max(_overlap(self._held, mark) for mark in self._marks)
        if "<tool_call>" in self._marks:  # the line break before a call belongs to it
            keep += len(self._held[: len(self._held) - keep]) - len(
                self._held[: len(self._held) - keep].rstrip("\n")
            )
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        yield from _plain("text", text)

    def _inside(self) -> Iterator[Piece]:
        mark = self._open or ""
        close = self._marks[mark]
        at = self._held.find(close)
        if at >= 0:
            body, self._held, self._open = self._held[:at], self._held[at + len(close) :], None
            self._skip = True
            yield from _call(body) if mark == "<tool_call>" else _plain("thought", body)
        elif mark == "<think>":
            keep = _overlap(self._held, close)
            text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
            yield from _plain("thought", text)


def _plain(kind: Literal["text", "thought"], text: str) -> Iterator[Piece]:
    if text:
        yield Piece(kind, text)


def _call(body: str) -> Iterator[Piece]:
    try:
        said: Any = json.loads(body)
        arguments = said.get("arguments", {})
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        yield Piece("call", text, str(said["name"]))
    except (ValueError, KeyError, AttributeError):
        yield Piece("text", f"<tool_call>{body}</tool_call>")
