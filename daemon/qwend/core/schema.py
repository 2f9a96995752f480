"""The JSON Schema (draft 2020-12) of a recipe, every engine's parameters included: what editors complete and
check with (`qwend schema`). Pure.

It is as strict as the loader where a schema can be, and nowhere stricter: `${VAR}` may stand for any value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qwend.core.engine_info import EngineInfo
from qwend.core.recipe_checks import JOB_ONLY, SERVICE_ONLY
from qwend.model.recipe import ENVIRONMENT_NAME, NAME, Recipe

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE: Schema = {"$ref": "#/$defs/variable"}
_SCALARS = {"integer", "number", "boolean"}


def recipe_schema(engines: Iterable[EngineInfo]) -> Schema:
    """The schema; definitions of an engine are named after it (`llama-cpp.quantize`)."""
    ordered = sorted(engines, key=lambda engine: engine.name)
    schema = Recipe.model_json_schema(by_alias=True, mode="validation")
    definitions = {name: _tidy(item, name) for name, item in schema.pop("$defs").items()}
    schema = _tidy(schema, "")
    definitions["variable"] = {
        "type": "string",
        "pattern": r"\$\{",
        "description": "a variable of the environment",
    }
    step = definitions["Step"]
    step["properties"]["uses"] = {
        "description": step["properties"]["uses"]["description"],
        "anyOf": [{"enum": [engine.name for engine in ordered]}, _VARIABLE],
    }
    step["allOf"] = [_for_engine(engine) for engine in ordered]
    for engine in ordered:
        definitions |= _parameters(engine)
    for section in ("models", "datasets", "steps"):
        _named(schema["properties"][section], NAME)
    _named(step["properties"]["env"], ENVIRONMENT_NAME)
    return {
        "$schema": DIALECT,
        "title": "qwend recipe",
        **schema,
        "patternProperties": {"^x-": {"description": "yours: anchors to repeat from, notes"}},
        "$defs": dict(sorted(definitions.items())),
    }


def _named(mapping: Schema, pattern: str) -> None:
    """Keys of a pattern only; pydantic says it with patternProperties, which editors explain worse."""
    for value in mapping.pop("patternProperties", {}).values():
        mapping["additionalProperties"] = value
    mapping["propertyNames"] = {"pattern": pattern, **mapping.get("propertyNames", {})}


def _for_engine(engine: EngineInfo) -> Schema:
    """What follows for a step from `uses: this engine`."""
    definition = f"#/$defs/{_definition(engine)}"
    properties = engine.schema.get("properties", {})
    then: Schema = {
        "with": {"$ref": definition, "description": engine.summary or engine.name},
        "matrix": {
            "properties": {
                name: {
                    "type": "array",
                    "minItems": 1,
                    "items": {"$ref": f"{definition}/properties/{_pointer(name)}"},
                }
                for name in properties
            },
            "additionalProperties": False,
        },
    }
    hidden = [
        *(SERVICE_ONLY if engine.kind != "service" else ()),
        *(JOB_ONLY if engine.kind != "job" else ()),
    ]
    if not engine.accepts:
        hidden.append("from")
    then |= dict.fromkeys(hidden, False)
    required = engine.schema.get("required", [])
    rule: Schema = {"properties": then}
    if engine.accepts:
        rule["required"] = ["from"]
    if required:
        # a matrix may give what `with` then need not
        rule["if"] = {"not": {"required": ["matrix"]}}
        rule["then"] = {"required": ["with"], "properties": {"with": {"required": required}}}
    return {"if": {"properties": {"uses": {"const": engine.name}}, "required": ["uses"]}, "then": rule}


def _parameters(engine: EngineInfo) -> dict[str, Schema]:
    """The definitions of an engine, under names of its own."""
    prefix = _definition(engine)
    schema = _rename(engine.schema, prefix)
    inner = {f"{prefix}.{name}": _tidy(item, name) for name, item in schema.pop("$defs", {}).items()}
    main = _tidy(schema, prefix)
    main.pop("required", None)
    return {prefix: main, **inner}


def _rename(schema: Any, prefix: str) -> Any:
    if isinstance(schema, list):
        return [_rename(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: item.replace("#/$defs/", f"#/$defs/{prefix}.")
        if key == "$ref" and isinstance(item, str)
        else _rename(item, prefix)
        for key, item in schema.items()
    }


def _tidy(schema: Any, name: str, *, below_properties: bool = False) -> Any:
    """Without pydantic's titles and our own notes; numbers, words and truth values may be variables too."""
    if isinstance(schema, list):
        return [_tidy(item, name) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if below_properties:
        return {key: _tidy(item, key) for key, item in schema.items()}
    tidy = {
        key: _tidy(item, name, below_properties=key in ("properties", "patternProperties", "$defs"))
        for key, item in schema.items()
        if key not in ("title", "gt", "ge") and not key.startswith("x-")
    }
    if tidy.get("default", "") is None:
        del tidy["default"]
    if tidy.get("type") in _SCALARS or "enum" in tidy or "const" in tidy or "pattern" in tidy:
        kept = {key: tidy.pop(key) for key in ("description", "default") if key in tidy}
        return {**kept, "anyOf": [tidy, _VARIABLE]}
    return tidy


def _definition(engine: EngineInfo) -> str:
    return engine.name.replace("/", ".")


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
