"""Looks into a JSON Schema at a path of the data: which keys, values and descriptions belong there. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

Path = tuple[str | int, ...]
Schema = dict[str, Any]


class Field(msgspec.Struct, frozen=True):
    """What a schema says of one place. `noun` is what one calls a value of it; `keys` those of a mapping."""

    description: str = ""
    noun: str = ""
    values: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


def look(schema: Schema, path: Path) -> Field:
    """What is known of `path`; an empty Field if the schema does not know it."""
    places = list(_open(schema, schema))
    description = noun = ""
    for item in path:
        places = [
            inner
            for place in places
            for below in _below(place, item)
            for inner in _open(schema, below, describe=True)
        ]
    for place in places:
        description = description or str(place.get("description", ""))
        noun = noun or str(place.get("x-qwend-noun", ""))
    return Field(
        description=description,
        noun=noun or next((str(item) for item in reversed(path) if isinstance(item, str)), ""),
        values=_unique(str(value) for place in places for value in _values(place)),
        keys=_unique(key for place in places for key in place.get("properties", ())),
    )


def _open(root: Schema, schema: Any, depth: int = 0, *, describe: bool = False) -> Iterator[Schema]:
    """The schema itself and the alternatives in it, references followed."""
    if not isinstance(schema, dict) or depth > 12:
        return
    yield schema
    target = schema.get("$ref")
    if isinstance(target, str) and target.startswith("#/$defs/"):
        yield from _open(root, root.get("$defs", {}).get(target.removeprefix("#/$defs/")), depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(word, ()):
            yield from _open(root, option, depth + 1)


def _below(place: Schema, item: str | int) -> Iterator[Any]:
    if isinstance(item, int):
        prefix = place.get("prefixItems", ())
        yield prefix[item] if item < len(prefix) else place.get("items")
    elif item in place.get("properties", {}):
        yield place["properties"][item]
    else:
        yield place.get("additionalProperties")
        yield from place.get("patternProperties", {}).values()


def _values(place: Schema) -> Iterator[Any]:
    if "const" in place:
        yield place["const"]
    yield from place.get("enum", ())


def _unique(words: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
