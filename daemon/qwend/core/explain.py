"""Turns pydantic's errors into sentences at paths: one per mistake, not one per union branch. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from qwend.core.lens import Field, Path, Schema, look
from qwend.core.suggest import did_you_mean
from qwend.core.wording import listing, quote, show, value

_SHOWN = 8
"""So many values of an enumeration are listed; more are left to `qwend plugins ls`."""

_SHAPES = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number",
    "string_type": "text", "bool_type": "true or false", "bool_parsing": "true or false",
    "tuple_type": "a list", "list_type": "a list", "set_type": "a list", "frozen_set_type": "a list",
    "dict_type": "a mapping", "model_type": "a mapping", "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping", "none_required": "nothing",
}  # fmt: skip
_BOUNDS = {"greater_than_equal": ("ge", "at least"), "greater_than": ("gt", "more than"),
           "less_than_equal": ("le", "at most"), "less_than": ("lt", "less than")}  # fmt: skip

Error = Any
"""One of pydantic's error details: type, loc, msg, input, ctx."""


class Problem(msgspec.Struct, frozen=True):
    """A mistake at a path of the recipe. `at_key`: it is the key that is wrong, not its value."""

    path: Path
    message: str
    hint: str | None = None
    at_key: bool = False


def explain(errors: Iterable[Error], data: Any, schema: Schema, engine: str | None = None) -> list[Problem]:
    """Problems with paths below `data`; `engine` is named in hints where its parameters are meant."""
    found = [
        _problem(path, error, schema, engine)
        for path, error in _settle([(e["loc"], e) for e in errors], (), data)
    ]
    paths = [problem.path for problem in found]
    return [
        problem
        for problem in found
        # a list that lost its bad items is not also too short
        if not (
            problem.message.startswith("should have at least")
            and any(_inside(p, problem.path) for p in paths)
        )
    ]


def _inside(path: Path, of: Path) -> bool:
    return len(path) > len(of) and path[: len(of)] == of


def _settle(errors: list[tuple[Path, Error]], base: Path, data: Any) -> list[tuple[Path, Error]]:
    """Errors with their real paths; of the branches of a union the one that fits the data best."""
    plain: list[tuple[Path, Error]] = []
    unions: dict[Path, tuple[Any, dict[str | int, list[tuple[Path, Error]]]]] = {}
    for loc, error in errors:
        path, node, rest = base, data, loc
        while rest and _has(node, rest[0]):
            path, node, rest = (*path, rest[0]), node[rest[0]], rest[1:]
        if rest == ("[key]",) or not rest:
            plain.append((path, error))
        elif len(rest) == 1 and error["type"] in ("missing", "extra_forbidden"):
            plain.append(((*path, rest[0]), error))
        else:
            unions.setdefault(path, (node, {}))[1].setdefault(rest[0], []).append((rest[1:], error))
    for path, (node, branches) in unions.items():
        plain += _best([_settle(branch, path, node) for branch in branches.values()], path)
    return plain


def _has(node: Any, item: str | int) -> bool:
    if isinstance(node, dict):
        return item in node
    return isinstance(node, list) and isinstance(item, int) and 0 <= item < len(node)


def _best(branches: list[list[tuple[Path, Error]]], path: Path) -> list[tuple[Path, Error]]:
    """The branch that the data was meant for; where it fits none, one error that names all shapes."""
    fitting = [b for b in branches if not all(p == path and _shape(e) for p, e in b)]
    if fitting:
        return min(fitting, key=len)
    shapes = list(dict.fromkeys(_shape(e) for b in branches for _, e in b))
    return [(path, {**branches[0][0][1], "type": "shapes", "ctx": {"shapes": shapes}})]


def _shape(error: Error) -> str | None:
    """What the value should have been, if it is not even of that kind."""
    if error["type"] == "literal_error" and not isinstance(error["input"], str):
        return str(error["ctx"]["expected"]).replace("'", "")
    return _SHAPES.get(error["type"])


def _problem(path: Path, error: Error, schema: Schema, engine: str | None) -> Problem:
    kind, given, context = error["type"], error.get("input"), error.get("ctx") or {}
    if error["loc"][-1:] == ("[key]",):
        return Problem(path, f"{quote(str(given))} is no name", _name_hint(context), at_key=True)
    field = look(schema, path)
    if kind == "missing":
        return Problem(path, "is required", field.description or None)
    if kind == "extra_forbidden":
        return _unknown_key(path, schema, engine)
    if kind in ("literal_error", "enum"):
        return _unknown_value(path, field, given, engine)
    message, hint = _sentence(kind, given, context, error)
    return Problem(path, message, hint or field.description or None)


def _unknown_key(path: Path, schema: Schema, engine: str | None) -> Problem:
    known = look(schema, path[:-1]).keys
    guess = did_you_mean(str(path[-1]), known)
    hint = None
    if engine and not guess and len(known) > _SHOWN:
        hint = f"qwend plugins ls {engine} lists its parameters"
    elif not guess:
        hint = f"known here: {', '.join(known[:40])}" if known else "there are none here"
    return Problem(path, f"unknown key{guess}", hint, at_key=True)


def _unknown_value(path: Path, field: Field, given: Any, engine: str | None) -> Problem:
    if not isinstance(given, str):
        message = f"should be {_values(field)}, not {value(given)}"
    else:
        message = f"unknown {field.noun or 'value'} {quote(given)}{did_you_mean(given, field.values)}"
    if len(field.values) <= _SHOWN:
        return Problem(
            path, message, f"it is one of {', '.join(field.values)}" if isinstance(given, str) else None
        )
    name = next((str(item) for item in reversed(path) if isinstance(item, str)), "value")
    if engine:
        return Problem(
            path, message, f"{engine} knows {len(field.values)} {name}s: qwend plugins ls {engine}"
        )
    return Problem(path, message, f"it is one of {', '.join(field.values)}")


def _values(field: Field) -> str:
    if 0 < len(field.values) <= _SHOWN:
        return listing(list(field.values))
    return f"one of {len(field.values)} words" if field.values else "another value"


def _sentence(kind: str, given: Any, context: dict[str, Any], error: Error) -> tuple[str, str | None]:
    shapes = [_SHAPES[kind]] if kind in _SHAPES else context.get("shapes") if kind == "shapes" else None
    if shapes:
        return f"should be {listing(shapes)}, not {value(given)}", _shape_hint(shapes, given)
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"should be {words} {value(context[key])}, not {value(given)}", None
    match kind:
        case "too_short":
            return f"should have at least {context['min_length']} item{_s(context['min_length'])}", None
        case "too_long":
            return f"should have at most {context['max_length']} items", None
        case "string_too_short":
            return f"should have at least {context['min_length']} character{_s(context['min_length'])}", None
        case "string_too_long":
            return f"should have at most {context['max_length']} characters", None
        case "string_pattern_mismatch":
            return f"{value(given)} does not have the form {show(context['pattern'], 200)}", None
        case "finite_number":
            return "should be a finite number", None
        case "value_error" | "assertion_error":
            return show(str(context.get("error", error["msg"])), 300), None
        case "name_or_names" | "source" | "wanted":
            return f"{show(error['msg'], 300)}, not {value(given)}", None
        case _:
            text = str(error["msg"])
            text = "should" + text.removeprefix("Input should") if text.startswith("Input should") else text
            return show(text, 300), None


def _shape_hint(shapes: list[str], given: Any) -> str | None:
    if "text" in shapes and isinstance(given, (int, float, bool)):
        return f'write it in quotes: "{value(given)}"'
    if (
        "true or false" in shapes
        and isinstance(given, str)
        and given.lower() in ("yes", "no", "on", "off", "y", "n")
    ):
        return f"YAML 1.2 reads {given} as a word"
    if shapes == ["a list"] and isinstance(given, (str, int, float)):
        return f"write it as [{show(str(given), 40)}]"
    return None


def _name_hint(context: dict[str, Any]) -> str:
    if str(context.get("pattern", "")).startswith("^[a-z][a-z0-9_]*"):
        return "names have lower-case letters, digits and _, and begin with a letter"
    if "max_length" in context:
        return f"at most {context['max_length']} characters"
    return "letters, digits and _, not beginning with a digit"


def _s(count: int) -> str:
    return "" if count == 1 else "s"
