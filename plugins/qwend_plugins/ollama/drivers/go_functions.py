"""What Go's text/template knows by name, how it prints a value, and what counts as true. Standard library, pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

NOTHING = object()
"""The value of an action that prints nothing."""


class TemplateError(ValueError):
    """The template cannot be read or rendered: the sentence says why."""


def to_json(value: Any) -> str:
    """JSON as Go's encoder writes it: compact, and with <, > and & escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def is_true(value: Any) -> bool:
    return bool(value) if value is not NOTHING else False


def printed(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return to_json(value) if isinstance(value, bool | list | Mapping) else str(value)


def _and(*values: Any) -> Any:
    return next((value for value in values if not is_true(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if is_true(value)), values[-1])


def _index(value: Any, *places: Any) -> Any:
    for place in places:
        try:
            value = value[place]
        except (IndexError, KeyError, TypeError):
            raise TemplateError(f"index {place!r} is out of range") from None
    return value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "or": _or,
    "not": lambda value: not is_true(value),
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, other: first != other,
    "lt": lambda first, other: first < other,
    "le": lambda first, other: first <= other,
    "gt": lambda first, other: first > other,
    "ge": lambda first, other: first >= other,
    "len": lambda value: len(value or ()),
    "index": _index,
    "slice": lambda value, begin=0, end=None: value[begin:end],
    "json": to_json,
    "print": lambda *values: "".join(printed(value) for value in values),
}
