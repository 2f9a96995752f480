"""Several files made one, and `--set`. Pure.

As in docker compose: mappings merge key by key, anything else is replaced by the later file. What wins keeps
the mark of where it was written.
"""

from __future__ import annotations

from collections.abc import Iterable

from qwend.core.recipe_text import RecipeFile
from qwend.core.suggest import did_you_mean
from qwend.core.wording import quote, show
from qwend.core.yaml_parser import parse
from qwend.core.yaml_tree import Items, Leaf, Map, Mark, Node, problem
from qwend.errors import UsageError


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`; neither is changed."""
    if not (isinstance(base, Map) and isinstance(over, Map)):
        return over
    entries = dict(base.entries)
    for key, (mark, node) in over.entries.items():
        below = entries.get(key)
        entries[key] = (mark, node) if below is None else (mark, merge(below[1], node))
    return Map(base.mark, entries)


def apply_sets(tree: Node, sets: Iterable[str]) -> tuple[Node, list[UsageError]]:
    """The tree after each `a.b.c=VALUE` (VALUE is YAML; a number is an item of a list), and what was wrong."""
    errors: list[UsageError] = []
    for text in sets:
        mark: Mark = (f"--set {show(text, 60)}", 0, 0)
        key, equals, value = text.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path) or len(path) > 16:
            hint = "write it as --set steps.STEP.with.KEY=VALUE"
            errors.append(problem(f"{quote(text, 60)} is no key.path=value", mark, hint, "bad-set"))
            continue
        node, wrong = _value(value, mark)
        if wrong:
            errors.append(wrong)
            continue
        try:
            tree = _put(tree, path, 0, node, mark)
        except UsageError as error:
            errors.append(error)
    return tree, errors


def _value(text: str, mark: Mark) -> tuple[Node, UsageError | None]:
    node, errors = parse(RecipeFile(mark[0], text))
    if errors:
        hint = errors[0].hint or "the value is read as YAML; put text in quotes"
        return Leaf("", True, mark), problem(errors[0].message, mark, hint, "bad-set")
    return _marked(node if node is not None else Leaf("", True, mark), mark), None


def _marked(node: Node, mark: Mark) -> Node:
    """The same tree, all of it at `mark`; its dollar signs were the shell's business."""
    match node:
        case Leaf():
            return Leaf(node.text, node.plain, mark, raw=True)
        case Items():
            return Items(mark, [_marked(item, mark) for item in node.items])
        case Map():
            return Map(mark, {key: (mark, _marked(item, mark)) for key, (_, item) in node.entries.items()})


def _put(tree: Node, path: list[str], depth: int, value: Node, mark: Mark) -> Node:
    if depth == len(path):
        return value
    key = path[depth]
    if isinstance(tree, Leaf) and tree.plain and not tree.text:
        tree = Map(mark)  # an empty value (`with:`) is a mapping that nobody has filled yet
    match tree:
        case Map():
            there = tree.entries.get(key)
            below = there[1] if there else (Map(mark) if depth + 1 < len(path) else value)
            key_mark = there[0] if there else mark
            return Map(
                tree.mark, {**tree.entries, key: (key_mark, _put(below, path, depth + 1, value, mark))}
            )
        case Items():
            if not key.isascii() or not key.isdigit() or len(key) > 6 or int(key) >= len(tree.items):
                known = [str(index) for index in range(len(tree.items))]
                raise problem(
                    f"{_spell(path, depth)} is a list of {len(tree.items)}; it has no {quote(key, 40)}"
                    f"{did_you_mean(key, known)}",
                    mark,
                    "name an item by its number, from 0, or replace the whole list with [a, b]",
                    "bad-set",
                )
            items = list(tree.items)
            items[int(key)] = _put(items[int(key)], path, depth + 1, value, mark)
            return Items(tree.mark, items)
        case Leaf():
            raise problem(
                f"{_spell(path, depth)} is {quote(tree.text, 40)}; nothing can be set below it",
                mark,
                code="bad-set",
            )


def _spell(path: list[str], depth: int) -> str:
    return show(".".join(path[:depth]), 60) or "the recipe"
