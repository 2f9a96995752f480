"""What a step is, as one number: known before anything runs. Pure.

A fingerprint is the sha256 of the canonical JSON of its ingredients. An ingredient has two names: the label
that people read (`from.f16`) and the key that is hashed (`from.0`): names of steps are in no hash, so renaming
a step rebuilds nothing. Parameters count where they differ from their defaults, so a new version of a plugin
that adds a parameter repeats nothing; if a default changes, the author raises the engine's `revision`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from qwend.model.artifact import Pin
from qwend.model.image import HostProgram, Image, ImageSpec, UpstreamImage
from qwend.model.launch import LaunchFile
from qwend.model.plan import CompiledStep

VERSION = 1
"""Raised when the meaning of unchanged ingredients changes; every step is then made anew."""

_SHOWN = 60


class Ingredient(msgspec.Struct, frozen=True):
    """One part of a fingerprint: what people read, what is hashed, and its value as canonical JSON."""

    label: str
    key: str
    value: str


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(text: str) -> str:
    """sha256 in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def fingerprint(kind: str, ingredients: Iterable[Ingredient]) -> str:
    """64 hexadecimal digits over the kind of step and its ingredients by key; their order does not count."""
    parts = sorted((part.key, part.value) for part in ingredients)
    return digest(canonical({"version": VERSION, "kind": kind, "parts": parts}))


def labels(ingredients: Iterable[Ingredient]) -> dict[str, str]:
    """As `CompiledStep.ingredients` holds them."""
    return {part.label: part.value for part in ingredients}


def of_engine(name: str, revision: int) -> Ingredient:
    return Ingredient("engine", "engine", canonical([name, revision]))


def of_inputs(producers: Iterable[tuple[str, str]]) -> list[Ingredient]:
    """The main inputs, in their order: pairs of name and fingerprint."""
    return [
        Ingredient(f"from.{name}", f"from.{index}", canonical(made))
        for index, (name, made) in enumerate(producers)
    ]


def of_params(given: Mapping[str, Any]) -> list[Ingredient]:
    """Parameters that count and differ from their defaults, as plain JSON values."""
    return [Ingredient(f"with.{name}", f"with.{name}", canonical(value)) for name, value in given.items()]


def of_references(field: str, fingerprints: list[str]) -> Ingredient:
    """A parameter that names other steps: what counts is what they are."""
    return Ingredient(f"with.{field}", f"with.{field}", canonical(fingerprints))


def of_env(env: Mapping[str, str]) -> list[Ingredient]:
    """Environment of the recipe. People put tokens there whatever they are told, so the value is hashed here:
    a plan says that it changed, and neither it nor the state holds it."""
    return [Ingredient(f"env.{name}", f"env.{name}", canonical(digest(value))) for name, value in env.items()]


def of_arguments(extra: tuple[str, ...]) -> list[Ingredient]:
    return [Ingredient("extra_args", "extra_args", canonical(list(extra)))] if extra else []


def of_image(image: Image) -> Ingredient:
    """The lock, manifest or program; `name` is for people and follows from the digest."""
    match image:
        case ImageSpec():
            name = f"{image.name}-{image.flavour}"
        case UpstreamImage() | HostProgram():
            name = image.name
    return Ingredient("image", "image", canonical([name, image.digest]))


def of_files(files: Iterable[LaunchFile]) -> list[Ingredient]:
    """Drivers and templates that a step takes along."""
    return [
        Ingredient(f"file.{file.name}", f"file.{file.name}", canonical(digest(file.content)))
        for file in files
    ]


def of_service(port: int | None, host: str, secrets: Iterable[str]) -> list[Ingredient]:
    """What else a service is: where it listens, and the names of the secrets that it reads."""
    return [
        Ingredient("port", "port", canonical(port)),
        Ingredient("host", "host", canonical(host)),
        Ingredient("secrets", "secrets", canonical(sorted(secrets))),
    ]


def of_source(pin: Pin) -> list[Ingredient]:
    """A pinned reference."""
    return [Ingredient("pin", "pin", canonical([pin.identity, pin.type]))]


def differences(before: CompiledStep, after: CompiledStep) -> list[str]:
    """What changed between two compilations of a step, in the words of its recipe; the cause nearest first.

    `with.type Q4_K_M → Q5_K_M`, `input f16 changed`, `image llama-cpp-cpu changed`. An input that was only
    renamed is no difference.
    """
    old, new = before.ingredients, after.ingredients
    found: list[tuple[int, str]] = []
    for label in [*new, *(name for name in old if name not in new)]:
        if old.get(label) != new.get(label):
            group, _, name = label.partition(".")
            said = _say(group, name, label, before, after)
            if said:
                found.append((_RANK.get(group, 0), said))
    return [text for _, text in sorted(found, key=lambda pair: pair[0])]


_RANK = {"engine": 1, "with": 2, "extra_args": 3, "env": 4, "port": 5, "host": 5, "secrets": 5, "from": 6}
_RANK |= {"file": 7, "image": 8}


def _say(group: str, name: str, label: str, before: CompiledStep, after: CompiledStep) -> str | None:
    old, new = before.ingredients.get(label), after.ingredients.get(label)
    match group:
        case "from":
            return _input(name, old, new, before, after)
        case "with":
            return _change(label, _option(before, name, old), _option(after, name, new))
        case "env" | "file":
            what = label if group == "env" else f"driver {name}"
            state = "added" if old is None else "removed" if new is None else "changed"
            return f"{what} {state}"
        case "engine":
            return _engine(old, new)
        case "image":
            return _image(old, new)
        case "pin":
            was, now = _load(old), _load(new)
            return f"{_pin(was)} → {_pin(now)}" if was and now else "its source changed"
        case _:
            return _change(label, _shown(old), _shown(new))


def _input(
    name: str, old: str | None, new: str | None, before: CompiledStep, after: CompiledStep
) -> str | None:
    if new is None:
        return None if old in _inputs(after) else f"input {name} removed"
    if old is None:
        return None if new in _inputs(before) else f"input {name} added"
    return f"input {name} changed"


def _inputs(step: CompiledStep) -> set[str]:
    return {value for label, value in step.ingredients.items() if label.startswith("from.")}


def _option(step: CompiledStep, name: str, value: str | None) -> str:
    """A parameter with its default, where the recipe left it out; a reference by the name in the recipe."""
    if name in step.options:
        return _cut(_plain(step.options[name]))
    return _shown(value)


def _change(label: str, old: str, new: str) -> str:
    return f"{label} changed" if old == new else f"{label} {old} → {new}"


def _engine(old: str | None, new: str | None) -> str:
    was, now = _load(old) or ["?", 0], _load(new) or ["?", 0]
    if was[0] == now[0]:
        return f"{now[0]} revision {was[1]} → {now[1]}"
    return f"uses {was[0]} → {now[0]}"


def _image(old: str | None, new: str | None) -> str:
    was, now = _load(old) or ["none", ""], _load(new) or ["none", ""]
    return f"image {now[0]} changed" if was[0] == now[0] else f"image {was[0]} → {now[0]}"


def _pin(value: list[str]) -> str:
    """`hf:o/r@4f0c…` short enough for a line."""
    head, at, revision = value[0].rpartition("@")
    if at:
        return _cut(f"{head}@{revision[:8]}")
    return _cut(value[0][:19] if value[0].startswith("sha256:") else value[0])


def _load(value: str | None) -> Any:
    return None if value is None else json.loads(value)


def _shown(value: str | None) -> str:
    return "none" if value is None else _cut(_plain(json.loads(value)))


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "none" if value is None else canonical(value)


def _cut(text: str) -> str:
    one_line = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return one_line if len(one_line) <= _SHOWN else one_line[: _SHOWN - 1] + "…"
