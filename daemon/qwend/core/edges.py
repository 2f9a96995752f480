"""Names of a recipe and who refers to whom: what is missing, ambiguous or goes in a circle. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qwend.core.explain import Problem
from qwend.core.lens import Path
from qwend.core.matrix import labels
from qwend.core.references import parse_name
from qwend.core.suggest import did_you_mean
from qwend.core.wording import quote, show
from qwend.core.yaml_scalar import scalar

KINDS = ("models", "datasets", "steps")


class Names:
    """Every name of a recipe: what it is, and the variants of a step (itself, if it has no matrix)."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.kinds: dict[str, str] = {}
        self.clashes: list[tuple[Path, Path]] = []
        self.variants: dict[str, dict[str, dict[str, Any]]] = {}
        for kind in KINDS:
            section = recipe.get(kind)
            for name in section if isinstance(section, dict) else ():
                if name in self.kinds:
                    self.clashes.append(((kind, name), (self.kinds[name], name)))
                else:
                    self.kinds[name] = kind
        steps = recipe.get("steps")
        for name, step in steps.items() if isinstance(steps, dict) else ():
            matrix = step.get("matrix") if isinstance(step, dict) else None
            if matrix is not None:
                self.variants[name] = dict(labels(matrix))

    def resolve(self, text: str, *, user: str, steps_only: bool = False) -> tuple[str, ...]:
        """The names that `text` means to step `user`; a matrix is spelled out. Raises ValueError."""
        plain = self.kinds.get(text)
        if plain and text != user and text not in self.variants and (plain == "steps" or not steps_only):
            return (text,)  # nearly all of them
        wanted = parse_name(text)
        kind = self.kinds.get(wanted.name)
        if kind is None:
            known = [
                name
                for name in self.kinds
                if name != user and not (steps_only and self.kinds[name] != "steps")
            ]
            what = "step" if steps_only else "model, dataset or step"
            raise ValueError(f"there is no {what} {quote(wanted.name)}{did_you_mean(wanted.name, known)}")
        if wanted.name == user:
            raise ValueError(f"{show(user)} refers to itself")
        if steps_only and kind != "steps":
            raise ValueError(f"{wanted.name} is a {kind[:-1]}; only steps can be named here")
        there = self.variants.get(wanted.name)
        if wanted.label is None:
            return (wanted.name,) if there is None else tuple(f"{wanted.name}[{label}]" for label in there)
        if there is None:
            raise ValueError(f"{wanted.name} has no matrix; write {wanted.name}")
        return (f"{wanted.name}[{self._label(wanted.name, wanted.label)}]",)

    def _label(self, step: str, wanted: str) -> str:
        """The label of a variant, written as in the matrix or as another spelling of the same value."""
        there = self.variants[step]
        if wanted in there:
            return wanted
        try:
            values = [scalar(part) for part in wanted.split(",")]
        except ValueError:
            values = []
        for label, given in there.items():
            if [(type(v), v) for v in given.values()] == [(type(v), v) for v in values]:
                return label
        guess = did_you_mean(wanted, there) or f"; it has {', '.join(list(there)[:8])}"
        raise ValueError(f"{step} has no value {quote(wanted)}{guess}")


def texts(value: Any) -> Iterator[tuple[Path, str]]:
    """One name or a list of names, as (path below, text); anything else was reported by its type."""
    if isinstance(value, str):
        yield (), value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, str):
                yield (index,), item


def resolve_all(
    names: Names, value: Any, path: Path, user: str, *, steps_only: bool = False
) -> tuple[tuple[str, ...], list[Problem]]:
    """What a reference or list of references at `path` means, and what is wrong with it."""
    found: dict[str, None] = {}
    problems = []
    for below, text in texts(value):
        try:
            meant = names.resolve(text, user=user, steps_only=steps_only)
        except ValueError as error:
            problems.append(Problem((*path, *below), str(error)))
            continue
        again = [name for name in meant if name in found]
        if again:
            problems.append(Problem((*path, *below), f"{again[0]} is named twice"))
        found.update(dict.fromkeys(meant))
    return tuple(found), problems


def cycles(edges: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Each circle once, as `(a, b, a)`: as many as a walk that never enters a step twice meets."""
    done: set[str] = set()
    found = []
    for start in edges:
        if start in done:
            continue
        trail = [start]
        on_trail = {start}
        pending = [iter(edges[start])]
        while pending:
            following = next(pending[-1], None)
            if following is None:
                pending.pop()
                ended = trail.pop()
                on_trail.discard(ended)
                done.add(ended)
            elif following in on_trail:
                found.append((*trail[trail.index(following) :], following))
            elif following not in done and following in edges:
                trail.append(following)
                on_trail.add(following)
                pending.append(iter(edges[following]))
    return found
