"""A YAML document as a tree that remembers where everything stood. Pure."""

from __future__ import annotations

from qwend.errors import UsageError

Mark = tuple[str, int, int]
"""File, line and column, both from 1; line 0 where there is no file (`--set …`)."""


class Leaf:
    """A scalar. `plain`: written without quotes, so its text may be a number. `raw`: `${…}` is left alone."""

    __slots__ = ("mark", "plain", "raw", "text")

    def __init__(self, text: str, plain: bool, mark: Mark, raw: bool = False) -> None:
        self.text = text
        self.plain = plain
        self.mark = mark
        self.raw = raw


class Map:
    """A mapping: each key with the mark of the key and its value."""

    __slots__ = ("entries", "mark")

    def __init__(self, mark: Mark, entries: dict[str, tuple[Mark, Node]] | None = None) -> None:
        self.mark = mark
        self.entries: dict[str, tuple[Mark, Node]] = {} if entries is None else entries


class Items:
    """A sequence."""

    __slots__ = ("items", "mark")

    def __init__(self, mark: Mark, items: list[Node] | None = None) -> None:
        self.mark = mark
        self.items: list[Node] = [] if items is None else items


Node = Leaf | Map | Items


def where(mark: Mark) -> str:
    """`file:line:column`."""
    return f"{mark[0]}:{mark[1]}:{mark[2]}" if mark[1] else mark[0]


def problem(message: str, mark: Mark, hint: str | None = None, code: str = "bad-recipe") -> UsageError:
    """An error at a mark."""
    return UsageError(message, code=code, where=where(mark), hint=hint)
