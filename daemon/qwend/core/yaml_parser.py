"""YAML 1.2 into a tree with marks. Pure, safe, bounded.

libyaml's parser gives events; the tree is built here without recursion, so that limits hold while the text is
read: an alias costs what it expands to, a cycle cannot arise, nothing is constructed from a tag.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from yaml import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from yaml.cyaml import CParser  # type: ignore[attr-defined]
from yaml.error import MarkedYAMLError, YAMLError

from qwend.core.recipe_text import RecipeFile, checked
from qwend.core.wording import quote, show
from qwend.core.yaml_scalar import WORDS, is_wordlike, scalar
from qwend.core.yaml_tree import Items, Leaf, Map, Mark, Node, problem, where
from qwend.errors import UsageError


class Limits(msgspec.Struct, frozen=True):
    """Bounds on one file: values (each alias counted as what it stands for), nesting, errors told at once."""

    values: int = 200_000
    depth: int = 50
    errors: int = 100


DEFAULT: Final = Limits()


def parse(file: RecipeFile, limits: Limits = DEFAULT) -> tuple[Node | None, list[UsageError]]:
    """The tree of a file (None if it is empty or broken) and what is wrong with it."""
    name = show(file.path)
    try:
        text = checked(file)
    except UsageError as error:
        return None, [error]
    builder = _Builder(name, limits)
    parser = CParser(text)
    try:
        builder.read(parser)
    except _Stop:
        return None, builder.errors
    except MarkedYAMLError as error:
        return None, [*builder.errors, _syntax(error, name, text)]
    except YAMLError as error:
        return None, [*builder.errors, problem(show(str(error), 200), (name, 1, 1), code="bad-yaml")]
    finally:
        parser.dispose()
    return builder.root, builder.errors


class _Stop(Exception):
    """The rest of the file is not worth reading."""


class _Open:
    """A collection that is being read. `size` counts values below it, `height` the levels below it."""

    __slots__ = ("anchor", "entries", "height", "items", "key", "key_mark", "node", "size")

    def __init__(self, node: Map | Items, anchor: str | None) -> None:
        self.node = node
        self.entries = node.entries if isinstance(node, Map) else None
        self.items: list[Node] = node.items if isinstance(node, Items) else []
        self.anchor = anchor
        self.size = 1
        self.height = 1
        self.key: str | None = None
        self.key_mark: Mark | None = None


class _Builder:
    def __init__(self, file: str, limits: Limits) -> None:
        self.file = file
        self.limits = limits
        self.root: Node | None = None
        self.errors: list[UsageError] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int, int]] = {}
        self._values = 0
        self._documents = 0

    def read(self, parser: CParser) -> None:
        """All events of the parser. Most are scalars, so their common case is kept short."""
        file, most, stack = self.file, self.limits.values, self._stack
        following = parser.get_event
        event: Any
        while (kind := type(event := following())) is not StreamEndEvent:
            if kind is not ScalarEvent:
                self._structure(event, kind)
                continue
            start = event.start_mark
            mark = (file, start.line + 1, start.column + 1)
            leaf = Leaf(event.value, event.implicit[0], mark)
            self._values += 1
            if event.tag is not None or event.anchor is not None or self._values > most or "\0" in leaf.text:
                self._rare(event, leaf)
            if not stack:
                self.root = leaf
                continue
            level = stack[-1]
            level.size += 1
            if level.entries is None:
                level.items.append(leaf)
            elif level.key_mark is None:
                text = leaf.text
                if text in level.entries or not is_wordlike(text) or text in WORDS:
                    level.key = self._key(leaf, mark, level.entries)
                else:
                    level.key = text
                level.key_mark = mark
            else:
                if level.key is not None:
                    level.entries[level.key] = (level.key_mark, leaf)
                level.key_mark = None

    def _structure(self, event: Any, kind: type) -> None:
        if kind is MappingStartEvent:
            self._start(event, Map(self._mark(event)))
        elif kind is SequenceStartEvent:
            self._start(event, Items(self._mark(event)))
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            self._end()
        elif kind is AliasEvent:
            self._alias(event)
        elif kind is DocumentStartEvent:
            self._documents += 1
            if self._documents > 1:
                hint = "give each recipe a file of its own"
                self._fatal(
                    "a recipe is one YAML document; a second one begins here", self._mark(event), hint
                )

    def _rare(self, event: Any, leaf: Leaf) -> None:
        if self._values > self.limits.values:
            self._too_many(leaf.mark)
        if event.tag is not None:
            self._tag(event.tag, leaf.mark)
        if event.anchor is not None:
            self._anchors[event.anchor] = (leaf, 1, 1)
        if "\0" in leaf.text:
            self._error("a NUL character cannot be passed to a program", leaf.mark)

    def _start(self, event: Any, node: Map | Items) -> None:
        if event.tag is not None:
            self._tag(event.tag, node.mark)
        if len(self._stack) >= self.limits.depth:
            self._fatal(f"nested deeper than {self.limits.depth} levels", node.mark)
        if self._stack and self._stack[-1].entries is not None and self._stack[-1].key_mark is None:
            self._fatal("a key must be text", node.mark, 'a "{" or "[" in front of a key starts a collection')
        self._stack.append(_Open(node, event.anchor))
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)

    def _end(self) -> None:
        done = self._stack.pop()
        if done.anchor is not None:
            self._anchors[done.anchor] = (done.node, done.size, done.height)
        self._put(done.node, done.node.mark, done.size, done.height)

    def _alias(self, event: Any) -> None:
        mark = self._mark(event)
        name = event.anchor
        if any(level.anchor == name for level in self._stack) and name not in self._anchors:
            self._fatal(f"*{show(name)} stands inside what it names: it would never end", mark)
        if name not in self._anchors:
            self._fatal(
                f"nothing is named &{show(name)} above *{show(name)}", mark, "quote text that begins with *"
            )
        node, size, height = self._anchors[name]
        self._values += size
        if self._values > self.limits.values:
            self._too_many(mark)
        if len(self._stack) + height > self.limits.depth + 1:
            self._fatal(f"nested deeper than {self.limits.depth} levels through *{show(name)}", mark)
        self._put(node, mark, size, height)

    def _put(self, node: Node, mark: Mark, size: int = 1, height: int = 1) -> None:
        if not self._stack:
            self.root = node
            return
        level = self._stack[-1]
        level.size += size
        if height >= level.height:
            level.height = height + 1
        if level.entries is None:
            level.items.append(node)
        elif level.key_mark is None:
            level.key = self._key(node, mark, level.entries)
            level.key_mark = mark
        else:
            if level.key is not None:
                level.entries[level.key] = (level.key_mark, node)
            level.key_mark = None

    def _key(self, node: Node, mark: Mark, entries: dict[str, tuple[Mark, Node]]) -> str | None:
        """The key, or None if its value is to be dropped."""
        if not isinstance(node, Leaf):
            self._error("a key must be text", mark)
            return None
        if node.plain and not isinstance(_quietly(node.text), str):
            self._error(
                f"the key {show(node.text) or 'here'} is no text",
                mark,
                f"write it in quotes: {quote(node.text)}",
            )
            return None
        if node.text == "<<" and node.plain:
            self._error(
                "merge keys (<<) are not part of YAML 1.2", mark, "use several -f files, or repeat the keys"
            )
            return None
        earlier = entries.get(node.text)
        if earlier is not None:
            self._error(
                f"the key {quote(node.text)} is here a second time",
                mark,
                f"the first is at {where(earlier[0])}",
                "duplicate-key",
            )
            return None
        return node.text

    def _tag(self, tag: str, mark: Mark) -> None:
        spelled = tag.replace("tag:yaml.org,2002:", "!!")
        self._error(
            f"the tag {show(spelled)} is not allowed",
            mark,
            "write text in quotes; numbers need no tag",
            "yaml-tag",
        )

    def _mark(self, event: Any) -> Mark:
        start = event.start_mark
        return (self.file, start.line + 1, start.column + 1)

    def _error(self, message: str, mark: Mark, hint: str | None = None, code: str = "bad-yaml") -> None:
        self.errors.append(problem(message, mark, hint, code))
        if len(self.errors) >= self.limits.errors:
            raise _Stop

    def _fatal(self, message: str, mark: Mark, hint: str | None = None) -> None:
        self._error(message, mark, hint)
        raise _Stop

    def _too_many(self, mark: Mark) -> None:
        self._fatal(
            f"a recipe may hold {self.limits.values:,} values at most, an alias counted as what it stands for",
            mark,
        )


def _quietly(text: str) -> object:
    try:
        return scalar(text)
    except ValueError:
        return 0


_HINTS = (
    ("cannot start any token", "indent with spaces, not tabs; quote text that begins with @, ` or %"),
    ("mapping values are not allowed", 'quote text that holds ": "'),
    ("could not find expected ':'", "a key ends with a colon and a space; check the indentation"),
    ("did not find expected key", "check the indentation"),
    ("block end", "check the indentation"),
    ("unknown escape character", "inside double quotes \\ is special; single quotes leave it alone"),
    ("unexpected end of stream", "a quote or bracket is opened and never closed"),
    ("expected ',' or", "a bracket is opened and never closed, or a comma is missing"),
)


def _syntax(error: MarkedYAMLError, file: str, source: str) -> UsageError:
    at = error.problem_mark or error.context_mark
    mark = (file, at.line + 1, at.column + 1) if at else (file, 1, 1)
    text = error.problem or "this is not YAML"
    if error.context and error.context_mark and error.context_mark.line != (at.line if at else None):
        text = f"{text} ({error.context} that begins on line {error.context_mark.line + 1})"
    hint = next((hint for part, hint in _HINTS if part in text), None)
    lines = source.splitlines()
    if at and at.line < len(lines) and "${" in lines[at.line][: at.column + 2]:
        hint = "inside {…} and […] YAML takes no ${…}: give the key a line of its own"
    return problem(show(text, 200), mark, hint, "bad-yaml")
