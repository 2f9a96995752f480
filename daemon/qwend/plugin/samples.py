"""Steps made up from an engine's own description: for the testing kit, and to learn what an engine turns into what.

The values come from the JSON Schema of the parameters: defaults where there are some, else examples, the first
of an enumeration, the lowest number of a range. Nothing here runs an engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from qwend.model.artifact import ARTIFACT_TYPES, Facts, Pin
from qwend.model.host import Gpu, Host
from qwend.plugin.protocols import Engine, Given, Params, StepView

GIB = 1024**3
FACTS = Facts(
    architecture="qwen2",
    parameters=494_032_768,
    bytes=988_097_824,
    context=32_768,
    layers=24,
    kv_heads=2,
    heads=14,
    head_dim=64,
    hidden=896,
    vocabulary=151_936,
    bits=16.0,
    dtype="bfloat16",
    template="chatml",
)
"""Those of Qwen2.5-0.5B-Instruct, from its headers."""

HOSTS = {
    "cpu": Host(system="linux", machine="x86_64", cpus=8, memory=32 * GIB, python="3.12"),
    "cuda": Host(
        system="linux",
        machine="x86_64",
        cpus=32,
        memory=256 * GIB,
        python="3.12",
        driver="580.95",
        cuda="13.0",
        gpus=(Gpu(0, "GPU-00000000-0000-0000-0000-000000000000", "NVIDIA H100", 80 * GIB, None, (9, 0)),),
    ),
    "cuda12": Host(
        system="linux",
        machine="x86_64",
        cpus=16,
        memory=128 * GIB,
        python="3.12",
        driver="535.230",
        cuda="12.2",
        gpus=(Gpu(0, "GPU-00000000-0000-0000-0000-000000000001", "Tesla V100", 32 * GIB, None, (7, 0)),),
    ),
    "apple": Host(
        system="darwin", machine="arm64", cpus=12, memory=36 * GIB, python="3.12", chip="Apple M4 Pro"
    ),
}
"""A machine for each flavour."""


class NoSample(Exception):
    """A value cannot be made up; the field needs a default or `examples=[…]`."""


def given(name: str, kind: str) -> Given:
    """An input of an artifact type. An adapter comes with the model that it belongs to."""
    facts = FACTS if kind.startswith(("model/", "adapter/")) else Facts(rows=200, bytes=100_000)
    pin = Pin(ref=f"sample:{kind}", identity=f"sample:{kind}", type=kind, facts=facts)
    lineage: tuple[Given, ...] = ()
    if kind.startswith("adapter/"):
        facts = msgspec.structs.replace(facts, base="base")
        lineage = (given("base", "model/safetensors"),)
    return Given(name=name, type=kind, facts=facts, pin=pin, lineage=lineage)


def references(params: type[Params]) -> dict[str, tuple[str, ...]]:
    """The parameters that name other steps, with the artifact types they take."""
    found = {}
    for name, field in params.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, Mapping) and isinstance(types := extra.get("x-qwend-reference"), list):
            found[field.alias or name] = tuple(str(kind) for kind in types)
    return found


def view(
    engine: Engine,
    kind: str | None = None,
    *,
    flavour: str | None = None,
    values: Mapping[str, Any] | None = None,
    name: str = "sample",
) -> StepView:
    """A valid step of the engine that reads an artifact of type `kind` (default: the first that it accepts).

    `values` are parameters over the sampled ones. Raises NoSample.
    """
    schema = engine.params.model_json_schema(by_alias=True)
    chosen: dict[str, Any] = {}
    inputs: dict[str, tuple[Given, ...]] = {}
    required = set(schema.get("required", ()))
    named = references(engine.params)
    for field, about in schema.get("properties", {}).items():
        if field in (values or {}):
            chosen[field] = (values or {})[field]
        elif field in required:
            chosen[field] = f"{field}_input" if field in named else _value(about, schema, field)
    for field, types in named.items():
        if chosen.get(field) is not None:
            wanted = chosen[field] if isinstance(chosen[field], list) else [chosen[field]]
            inputs[field] = tuple(given(str(word), types[0]) for word in wanted)
    params = engine.params.model_validate_json(json.dumps(chosen))
    accepted = kind or (engine.accepts[0] if engine.accepts else None)
    return StepView(
        name=name,
        recipe="sample",
        params=params,
        inputs=(given("first", accepted),) if accepted else (),
        given=inputs,
        flavour=flavour or engine.flavours[0],
        gpus=1 if (flavour or engine.flavours[0]).startswith("cuda") else 0,
    )


def views(engine: Engine) -> Iterator[tuple[str, StepView, Host]]:
    """Steps that between them use every accepted type, flavour, optional input and word of an enumeration; each
    with a sentence that says what is special, and a host that it fits. Raises NoSample."""
    for flavour in engine.flavours:
        for kind in engine.accepts or (None,):
            reads = f" from {kind}" if kind else ""
            yield f"{flavour}{reads}", view(engine, kind, flavour=flavour), HOSTS[flavour]
    flavour = engine.flavours[0]
    schema = engine.params.model_json_schema(by_alias=True)
    for field, about in schema.get("properties", {}).items():
        for value in _words(about, schema):
            try:
                step = view(engine, values={field: value})
            except ValueError:  # a validator of several fields: not every word goes with every default
                continue
            yield f"with {field}: {json.dumps(value)}", step, HOSTS[flavour]
    for field in references(engine.params):
        try:
            step = view(engine, values={field: f"{field}_input"})
        except ValueError:
            step = view(engine, values={field: [f"{field}_input"]})
        yield f"with {field}", step, HOSTS[flavour]
    if engine.many:
        one = view(engine)
        two = msgspec.structs.replace(one, inputs=(*one.inputs, given("second", engine.accepts[0])))
        yield "two inputs", two, HOSTS[flavour]


def products(engine: Engine) -> dict[str, str]:
    """What a job makes of each type that it accepts. Types that it does not like as such are left out."""
    found = {}
    for kind in engine.accepts:
        try:
            made = engine.product(view(engine, kind))
        except Exception:  # whatever a plugin raises: then nothing is known of this type
            continue
        if made is not None and made.type in ARTIFACT_TYPES:
            found[kind] = made.type
    return found


def _words(about: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Any]:
    """The words of an enumeration, and both truth values."""
    for place in _alternatives(about, root):
        yield from place.get("enum", ())
        if "const" in place:
            yield place["const"]
        if place.get("type") == "boolean":
            yield from (True, False)


def _alternatives(
    about: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0
) -> Iterator[Mapping[str, Any]]:
    if depth > 8:
        return
    yield about
    target = str(about.get("$ref", ""))
    if target.startswith("#/$defs/"):
        yield from _alternatives(root["$defs"][target.removeprefix("#/$defs/")], root, depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        for option in about.get(word, ()):
            yield from _alternatives(option, root, depth + 1)


def _value(about: Mapping[str, Any], root: Mapping[str, Any], field: str, depth: int = 0) -> Any:
    for place in _alternatives(about, root):
        if "default" in place:
            return place["default"]
        if place.get("examples"):
            return place["examples"][0]
        if "const" in place:
            return place["const"]
        if place.get("enum"):
            return place["enum"][0]
    for place in _alternatives(about, root):
        match place.get("type"):
            case "boolean":
                return False
            case "integer" | "number":
                return _number(place)
            case "string" if "pattern" not in place:
                return "x" * max(1, place.get("minLength", 1))
            case "array" if depth < 8:
                item = (
                    _value(place.get("items", {}), root, field, depth + 1) if place.get("minItems") else None
                )
                return [item] * place.get("minItems", 0)
            case "object" if depth < 8:
                needed = place.get("required", ())
                inner = place.get("properties", {})
                return {key: _value(inner[key], root, f"{field}.{key}", depth + 1) for key in needed}
            case "null":
                return None
    raise NoSample(f"no value for {field} can be made up: give it a default or examples=[…]")


def _number(place: Mapping[str, Any]) -> float:
    if "minimum" in place:
        low: float = place["minimum"]
        return low
    if "exclusiveMinimum" in place:
        above: float = place["exclusiveMinimum"]
        return int(above) + 1 if place["type"] == "integer" else above + 0.5
    if "maximum" in place:
        high: float = place["maximum"]
        return high
    return 1
