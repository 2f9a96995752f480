"""`matrix:` made into steps of their own, each with its parameters. Pure."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from qwend.core.engine_info import EngineInfo
from qwend.core.explain import Problem, explain
from qwend.core.lens import Path
from qwend.core.references import label
from qwend.plugin.protocols import Params

MAX_VARIANTS = 256


@dataclass(frozen=True)
class Variant:
    """A step as it will run: itself, or one value of its matrix (`quant[Q8_0]`).

    `inputs` (of `from:`), `given` (of parameters that name steps, by parameter) and `needs` are names of
    models, datasets and variants, in the recipe's order, a matrix without brackets spelled out.
    """

    name: str
    step: str
    values: dict[str, Any]
    params: Params
    inputs: tuple[str, ...] = ()
    given: dict[str, tuple[str, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def labels(matrix: Any) -> list[tuple[str, dict[str, Any]]]:
    """The label and values of each combination of a matrix; what cannot be labelled is left out.

    A matrix of hostile size gives at most MAX_VARIANTS.
    """
    if not isinstance(matrix, dict):
        return []
    columns = []
    for key, values in matrix.items():
        if not isinstance(values, list):
            return []
        columns.append([(key, item, text) for item in values if (text := _label(item)) is not None])
    found: dict[str, dict[str, Any]] = {}
    for row in itertools.islice(itertools.product(*columns), MAX_VARIANTS):
        found.setdefault(",".join(text for _, _, text in row), {key: item for key, item, _ in row})
    return list(found.items())


def check(matrix: Any, with_: Any, path: Path) -> list[Problem]:
    """What is wrong with a matrix itself, at `path` of the recipe."""
    if not isinstance(matrix, dict):
        return []
    problems, size = [], 1
    for key, values in matrix.items():
        if isinstance(with_, dict) and key in with_:
            problems.append(
                Problem((*path, key), f"{key} is given by with: too", "leave it in one of them", True)
            )
        if not isinstance(values, list):
            continue
        size *= len(values)
        if not values:
            problems.append(Problem((*path, key), "has no values, so there would be no step"))
        seen: dict[str, int] = {}
        for index, item in enumerate(values):
            try:
                text = label(item)
            except ValueError as error:
                problems.append(Problem((*path, key, index), str(error)))
                continue
            if text in seen:
                problems.append(Problem((*path, key, index), f"{text} is in the list twice"))
            seen[text] = index
    if size > MAX_VARIANTS:
        problems.append(Problem(path, f"makes {size} steps; {MAX_VARIANTS} are the most", None, True))
    return problems


def variants(name: str, step: dict[str, Any], engine: EngineInfo) -> tuple[list[Variant], list[Problem]]:
    """The variants of a step with valid parameters, and what is wrong with the others."""
    with_ = step.get("with", {})
    if not isinstance(with_, dict):
        return [], []
    matrix = step.get("matrix")
    rows = labels(matrix) if matrix is not None else [("", {})]
    found: list[Variant] = []
    problems: dict[tuple[Path, str], Problem] = {}
    for text, values in rows:
        given = {**with_, **values} if values else with_
        try:
            params = engine.params.model_validate_json(json.dumps(given))
        except ValidationError as error:
            details = error.errors(include_url=False)
        except Exception as error:  # a validator of a plugin may raise anything
            kind = type(error).__name__
            problems[((), kind)] = Problem(
                ("steps", name, "with"), f"{engine.name} fails to read its parameters ({kind})"
            )
            continue
        else:
            found.append(Variant(f"{name}[{text}]" if text else name, name, values, params))
            continue
        for problem in explain(details, given, engine.schema, engine.name):
            at = _place(("steps", name), problem, matrix, values)
            problems.setdefault(
                (at, problem.message), Problem(at, problem.message, problem.hint, problem.at_key)
            )
    return found, list(problems.values())


def _place(step: Path, problem: Problem, matrix: Any, values: dict[str, Any]) -> Path:
    """Where a parameter was written: below `with`, or in the matrix its key or the very value."""
    path = problem.path
    if not path or path[0] not in values:
        return (*step, "with", *path)
    key = str(path[0])
    if problem.at_key:
        return (*step, "matrix", key)
    index = next(index for index, item in enumerate(matrix[key]) if item is values[key])
    return (*step, "matrix", key, index)


def _label(item: Any) -> str | None:
    try:
        return label(item)
    except ValueError:
        return None
