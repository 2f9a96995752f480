"""From the text of a recipe to a checked Recipe and the parameters of every step. Pure.

All mistakes are told at once, each at its line and column: syntax, types, unknown keys, engines, parameters,
references, cycles. The stages: parse each file, merge, `--set`, fill variables, validate, check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from qwend.core import edges, matrix, recipe_checks
from qwend.core.edges import KINDS, Names
from qwend.core.engine_info import EngineInfo
from qwend.core.explain import Problem, explain
from qwend.core.lens import Path
from qwend.core.marks import Marks, to_data
from qwend.core.matrix import Variant
from qwend.core.overlay import apply_sets, merge
from qwend.core.recipe_text import RecipeFile
from qwend.core.references import SCHEMES
from qwend.core.wording import show
from qwend.core.yaml_parser import parse
from qwend.core.yaml_tree import Items, Leaf, Map, Node, problem
from qwend.errors import UsageError
from qwend.model.recipe import Recipe
from qwend.plugin.protocols import Params

MAX_STEPS = 5_000
MAX_ERRORS = 100

__all__ = ["Loaded", "Marks", "RecipeFile", "Variant", "load"]


@dataclass(frozen=True)
class Loaded:
    """A recipe that holds together.

    `variants` are the steps as they will run, in the recipe's order, a matrix spelled out; `params` their
    parameters by name (`quant[Q8_0]`). `marks` finds the place of what a later check objects to.
    """

    recipe: Recipe
    variants: tuple[Variant, ...]
    marks: Marks
    warnings: tuple[str, ...]
    directory: str

    @property
    def params(self) -> dict[str, Params]:
        return {variant.name: variant.params for variant in self.variants}


def load(
    files: Sequence[RecipeFile],
    *,
    engines: Mapping[str, EngineInfo],
    sets: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    directory: str = "",
    schemes: tuple[str, ...] = SCHEMES,
) -> Loaded:
    """The recipe that `files`, merged in order, and `sets` (`steps.q4.with.type=Q8_0`) describe.

    `env` fills `${NAME}`; `schemes` are the kinds of reference that there are. Raises one UsageError whose
    `details` are all that is wrong.
    """
    root = _read(files, sets)
    marks = Marks(root)
    data, problems = to_data(root, env or {})
    unread = {problem.path for problem in problems}
    if not isinstance(data, dict):
        raise _all([marks.error(Problem((), "a recipe is a mapping of keys"))])
    data = {key: item for key, item in data.items() if not key.startswith("x-")}
    if isinstance(data.get("steps"), dict) and len(data["steps"]) > MAX_STEPS:
        count = len(data["steps"])
        raise _all([marks.error(Problem(("steps",), f"holds {count:,} steps; {MAX_STEPS:,} are the most"))])
    recipe, wrong = _validate(data)
    variants = _check(data, engines, schemes, marks, wrong)
    # a value that could not be read is wrong once, not also of the wrong type
    problems += [problem for problem in wrong if problem.at_key or problem.path not in unread]
    if problems:
        places = [marks.mark(problem.path, at_key=problem.at_key) for problem in problems]
        raise _all([marks.error(problem) for problem in problems], places, files)
    assert recipe is not None
    return Loaded(recipe, tuple(variants), marks, tuple(_warnings(data, variants, marks)), directory)


def _read(files: Sequence[RecipeFile], sets: Iterable[str]) -> Node:
    root: Node | None = None
    errors: list[UsageError] = []
    for file in files:
        tree, wrong = parse(file)
        errors += wrong
        mark = (show(file.path), 1, 1)
        if wrong:
            continue
        if tree is None or (isinstance(tree, Leaf) and tree.plain and not tree.text):
            errors.append(
                problem("this file is empty", mark, "a recipe needs name: and steps:; see qwend init")
            )
        elif not isinstance(tree, Map):
            what = "a list" if isinstance(tree, Items) else "text"
            errors.append(
                problem(f"a recipe is a mapping of keys, not {what}", mark, "begin with name: and steps:")
            )
        else:
            root = tree if root is None else merge(root, tree)
    if not files:
        errors.append(UsageError("there is no recipe to read", code="no-recipe"))
    if root is not None:
        root, wrong = apply_sets(root, sets)
        errors += wrong
    if errors or root is None:
        raise _all(errors)
    return root


def _validate(data: dict[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    try:
        return Recipe.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    return None, explain(details, data, _recipe_schema())


_schema: dict[str, Any] = {}


def _recipe_schema() -> dict[str, Any]:
    if not _schema:
        _schema.update(Recipe.model_json_schema(by_alias=True, mode="validation"))
    return _schema


def _check(
    data: Mapping[str, Any],
    engines: Mapping[str, EngineInfo],
    schemes: tuple[str, ...],
    marks: Marks,
    problems: list[Problem],
) -> list[Variant]:
    """Everything beyond types; adds to `problems`, returns the variants of the steps that hold."""
    names = Names(data)
    for (kind, name), (other, _) in names.clashes:
        place = marks.where((other, name), at_key=True)
        problems.append(
            Problem(
                (kind, name),
                f"the name {show(str(name))} is taken by {other} ({place})",
                "names are shared",
                True,
            )
        )
    for kind in KINDS[:2]:
        section = data.get(kind)
        for name, given in section.items() if isinstance(section, dict) else ():
            problems += recipe_checks.source_problems(kind, name, given, schemes)
    steps = data.get("steps")
    steps = (
        {name: step for name, step in steps.items() if isinstance(step, dict)}
        if isinstance(steps, dict)
        else {}
    )
    problems += recipe_checks.same_out(steps)
    found: list[Variant] = []
    graph: dict[str, list[str]] = {}
    where: dict[tuple[str, str], Path] = {}
    for name, step in steps.items():
        engine, wrong = _engine(name, step, engines)
        problems += wrong
        problems += recipe_checks.step_problems(name, step, names)
        problems += matrix.check(step.get("matrix"), step.get("with"), ("steps", name, "matrix"))
        links = _links(name, step, engine, names, problems)
        graph[name] = []
        for path, meant in links.items():
            for target in meant:
                base = target.partition("[")[0]
                graph[name].append(base)
                where.setdefault((name, base), path)
        if engine:
            variants, wrong = matrix.variants(name, step, engine)
            problems += wrong
            found += [_linked(variant, step, engine, links) for variant in variants]
    for circle in edges.cycles(graph):
        path = where[circle[0], circle[1]]
        problems.append(
            Problem(path, f"goes in a circle: {' -> '.join(circle)}", "each step needs something earlier")
        )
    return found


def _engine(
    name: str, step: Mapping[str, Any], engines: Mapping[str, EngineInfo]
) -> tuple[EngineInfo | None, list[Problem]]:
    uses = step.get("uses")
    wrong = recipe_checks.engine_problem(name, uses, engines)
    if wrong or not isinstance(uses, str):
        return None, [wrong] if wrong else []
    return engines[uses], list(recipe_checks.kind_problems(name, step, engines[uses]))


def _links(
    name: str, step: Mapping[str, Any], engine: EngineInfo | None, names: Names, problems: list[Problem]
) -> dict[Path, tuple[str, ...]]:
    """What each reference of a step means, by the reference's path; one for each value of a matrix."""
    path: Path = ("steps", name)
    with_, columns = step.get("with"), step.get("matrix")
    places: list[tuple[Path, Any, bool, bool]] = []
    if not engine or engine.accepts:
        places.append(((*path, "from"), step.get("from"), False, engine is None or engine.many))
    places.append(((*path, "needs"), step.get("needs"), True, True))
    for key in engine.references if engine else ():
        if isinstance(with_, dict) and key in with_:
            places.append(((*path, "with", key), with_[key], False, isinstance(with_[key], list)))
        column = columns.get(key) if isinstance(columns, dict) else None
        for index, item in enumerate(column if isinstance(column, list) else ()):
            places.append(((*path, "matrix", key, index), item, False, False))
    found = {}
    for place, value, steps_only, many in places:
        meant, wrong = edges.resolve_all(names, value, place, name, steps_only=steps_only)
        problems += wrong
        if not many and len(meant) > 1 and not wrong:
            user = engine.name if engine and place[-1] == "from" else str(place[-1])
            problems.append(
                Problem(place, f"{user} takes one input; this is {len(meant)}: {', '.join(meant[:8])}")
            )
        found[place] = meant
    return found


def _linked(
    variant: Variant, step: Mapping[str, Any], engine: EngineInfo, links: Mapping[Path, tuple[str, ...]]
) -> Variant:
    path: Path = ("steps", variant.step)
    given = {}
    for key in engine.references:
        place: Path = (*path, "with", key)
        if key in variant.values:
            place = (*path, "matrix", key, step["matrix"][key].index(variant.values[key]))
        if links.get(place):
            given[key] = links[place]
    return Variant(
        variant.name,
        variant.step,
        variant.values,
        variant.params,
        links.get((*path, "from"), ()),
        given,
        links[(*path, "needs")],
    )


def _warnings(data: Mapping[str, Any], variants: Iterable[Variant], marks: Marks) -> Iterable[str]:
    used = {
        name
        for variant in variants
        for name in (*variant.inputs, *(n for ns in variant.given.values() for n in ns))
    }
    for kind in KINDS[:2]:
        for name in data.get(kind, ()):
            if name not in used:
                place = marks.where((kind, name), at_key=True)
                yield f"{place}: {kind}.{name} is used by no step"


def _all(
    errors: list[UsageError], marks: Sequence[tuple[str, int, int]] = (), files: Sequence[RecipeFile] = ()
) -> UsageError:
    """One error that holds all, in the order of the files."""
    if marks:
        order = {show(file.path): index for index, file in enumerate(files)}
        place = sorted(
            range(len(errors)), key=lambda i: (order.get(marks[i][0], len(order)), marks[i][1:], i)
        )
        errors = [errors[index] for index in place]
    unique = list({(error.where, error.message): error for error in errors}.values())
    count = len(unique)
    if count > MAX_ERRORS:
        unique = [
            *unique[:MAX_ERRORS],
            UsageError(
                f"and {count - MAX_ERRORS} more errors", code="bad-recipe", where=unique[MAX_ERRORS].where
            ),
        ]
    summary = f"the recipe has {count} errors" if count > 1 else unique[0].message
    return UsageError(summary, code="bad-recipe", details=tuple(unique))
