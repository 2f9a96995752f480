"""Which references a recipe's sources come to, and what their consumers want of them. Pure.

Under `--smoke` every source is replaced by something tiny that is made or lies on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qwend.core.engine_info import EngineInfo
from qwend.core.loader import Loaded, Variant
from qwend.core.selection import Selection
from qwend.model.recipe import SourceSpec

_MIXTURE = re.compile(r"-a\d+b\b|moe", re.IGNORECASE)
_THIRD = re.compile(r"qwen-?3", re.IGNORECASE)


@dataclass(frozen=True)
class Sought:
    """A source: the references to try in order, and what `Source.resolve` is told."""

    name: str
    kind: Literal["model", "dataset"]
    references: tuple[str, ...]
    options: dict[str, Any]
    where: tuple[str, ...]
    """The place of each reference."""


def sought(
    loaded: Loaded, selection: Selection, engines: Mapping[str, EngineInfo], smoke: bool
) -> tuple[Sought, ...]:
    """The sources of a selection, in the recipe's order."""
    wants = _wants(loaded, selection.variants, engines)
    return tuple(_sought(loaded, name, wants[name], smoke) for name in selection.sources)


def architecture(text: str) -> str:
    """The smoke model that stands for a model of this name: `Qwen/Qwen3-30B-A3B` gives `qwen3moe`."""
    if not _THIRD.search(text):
        return "qwen2"
    return "qwen3moe" if _MIXTURE.search(text) else "qwen3"


def _sought(loaded: Loaded, name: str, wants: tuple[str, ...], smoke: bool) -> Sought:
    model = name in loaded.recipe.models
    spec = loaded.recipe.models[name] if model else loaded.recipe.datasets[name]
    kind: Literal["model", "dataset"] = "model" if model else "dataset"
    section = "models" if model else "datasets"
    options: dict[str, Any] = {"kind": kind, "wants": list(wants), "directory": loaded.directory}
    if smoke:
        place = loaded.marks.where((section, name, "smoke") if spec.smoke else (section, name))
        return Sought(name, kind, (_stand_in(kind, spec),), {**options, "smoke": True}, (place,))
    for key in ("column", "sample", "seed", "type"):
        if getattr(spec, key) is not None:
            options[key] = getattr(spec, key)
    if spec.allow_pickle:
        options["allow_pickle"] = True
    places = tuple(_place(loaded, section, name, index) for index in range(len(spec.from_)))
    return Sought(name, kind, spec.from_, options, places)


def _place(loaded: Loaded, section: str, name: str, index: int) -> str:
    """A reference is text or an item of a list, at the name itself or below `from:`: the place of whichever."""
    marks = loaded.marks
    path: tuple[str, ...] = (section, name)
    key, below = marks.where(path, at_key=True), marks.where((*path, "from"), at_key=True)
    if below != key:
        key, path = below, (*path, "from")
    item = marks.where((*path, index))
    return item if item != key else marks.where(path)


def _stand_in(kind: str, spec: SourceSpec) -> str:
    if spec.smoke is not None:
        return spec.smoke if ":" in spec.smoke else f"smoke:{spec.smoke}"
    return f"smoke:{architecture(' '.join(spec.from_))}" if kind == "model" else "smoke:data"


def _wants(
    loaded: Loaded, variants: tuple[Variant, ...], engines: Mapping[str, EngineInfo]
) -> dict[str, tuple[str, ...]]:
    """For each source the types that all of its consumers accept, in the first one's order. If there is none,
    those of the first: the edges of the others are found wrong later, with what would mend them."""
    found: dict[str, tuple[str, ...]] = {}
    for variant in variants:
        engine = engines[loaded.recipe.steps[variant.step].uses]
        reads = [(name, engine.accepts) for name in variant.inputs]
        for field, names in variant.given.items():
            reads += [(name, engine.references[field]) for name in names]
        for name, types in reads:
            before = found.get(name)
            both = types if before is None else tuple(kind for kind in before if kind in types)
            found[name] = both or before or types
    return found
