"""From a tree with marks to plain data, and from a path back to file, line and column. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwend.core.explain import Problem
from qwend.core.interpolate import InterpolationError, interpolate
from qwend.core.wording import show
from qwend.core.yaml_scalar import scalar
from qwend.core.yaml_tree import Items, Leaf, Map, Mark, Node, where
from qwend.errors import UsageError

_UNFIT = re.compile("[\0\ud800-\udfff]")


def spell(path: Sequence[str | int]) -> str:
    """`steps.q4.from[1]`."""
    text = ""
    for item in path:
        text += f"[{item}]" if isinstance(item, int) else f".{show(item, 64)}" if text else show(item, 64)
    return text


class Marks:
    """Where everything in a recipe was written; what won a merge has the mark of its own file."""

    def __init__(self, root: Node) -> None:
        self._root = root

    def where(self, path: Sequence[str | int], *, at_key: bool = False) -> str:
        """`file:line:column` of the value at `path` (of its key with `at_key`, or if it is a collection).

        What was not written has the place of the closest thing around it.
        """
        return where(self.mark(path, at_key=at_key))

    def step(self, name: str, key: str = "") -> str:
        """The place of a step (`quant`, `quant[Q8_0]`) or of a key below it (`with.type`, as in a `Finding`).

        A parameter that a matrix gives stands at the matrix.
        """
        step = name.partition("[")[0]
        path: list[str | int] = (
            [int(item) if item.isdigit() else item for item in key.split(".")] if key else []
        )
        if path[:1] == ["with"] and len(path) > 1 and self._find(("steps", step, "matrix", path[1])):
            path = ["matrix", path[1]]
        return self.where(("steps", step, *path))

    def mark(self, path: Sequence[str | int], *, at_key: bool = False) -> Mark:
        """As `where`, taken apart."""
        node, key_mark = self._root, self._root.mark
        for index, item in enumerate(path):
            found = _enter(node, item)
            if found is None:
                return key_mark
            key_mark, node = found
            if at_key and index == len(path) - 1:
                return key_mark
        return node.mark if isinstance(node, Leaf) else key_mark

    def _find(self, path: Sequence[str | int]) -> bool:
        node: Node = self._root
        for item in path:
            found = _enter(node, item)
            if found is None:
                return False
            node = found[1]
        return True

    def error(self, problem: Problem, code: str = "bad-recipe") -> UsageError:
        """A problem as the user reads it: place, key path, message, hint."""
        place = spell(problem.path)
        message = f"{place}: {problem.message}" if place else problem.message
        at = self.where(problem.path, at_key=problem.at_key)
        return UsageError(message, code=code, where=at, hint=problem.hint)


def _enter(node: Node, item: str | int) -> tuple[Mark, Node] | None:
    if isinstance(node, Map):
        return node.entries.get(str(item))
    if isinstance(node, Items) and isinstance(item, int) and 0 <= item < len(node.items):
        return node.items[item].mark, node.items[item]
    return None


def to_data(root: Node, env: Mapping[str, str]) -> tuple[Any, list[Problem]]:
    """The tree as dict, list, str, int, float, bool and None, with variables filled; and what was wrong."""
    reader = _Reader(env)
    return reader.read(root), reader.problems


class _Reader:
    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.problems: list[Problem] = []
        self._path: list[str | int] = []

    def read(self, node: Node) -> Any:
        if isinstance(node, Leaf):
            return self._leaf(node)
        path, leaf = self._path, self._leaf
        path.append("")
        found: dict[str, Any] | list[Any]
        if isinstance(node, Map):
            found = {}
            for key, (_, child) in node.entries.items():
                path[-1] = key
                found[key] = leaf(child) if type(child) is Leaf else self.read(child)
        else:
            found = []
            for index, child in enumerate(node.items):
                path[-1] = index
                found.append(leaf(child) if type(child) is Leaf else self.read(child))
        path.pop()
        return found

    def _leaf(self, leaf: Leaf) -> str | int | float | bool | None:
        text = leaf.text
        try:
            if "$" in text and not leaf.raw:
                text = interpolate(text, self.env)
                if _UNFIT.search(text):
                    raise InterpolationError("a variable holds a NUL character, or bytes that are not UTF-8")
            return scalar(text) if leaf.plain else text
        except InterpolationError as error:
            self.problems.append(Problem(tuple(self._path), str(error), error.hint))
        except ValueError as error:
            self.problems.append(Problem(tuple(self._path), str(error)))
        return None
