"""Compiles recipes over the toy plugin."""

from __future__ import annotations

from typing import Any

import msgspec
from tests.fakes import toys

from qwend.core.compiler import compile_recipe
from qwend.core.engine_info import EngineInfo
from qwend.core.loader import RecipeFile, load
from qwend.core.selection import select
from qwend.core.sourcing import sought
from qwend.core.terms import Terms
from qwend.errors import QwendError
from qwend.model.artifact import Pin
from qwend.model.host import Host
from qwend.model.plan import Compiled, CompiledStep
from qwend.plugin.samples import HOSTS

ENGINES: dict[str, Any] = {engine.name: engine for engine in toys.ENGINES}
SOURCES: dict[str, Any] = {source.scheme: source for source in toys.SOURCES}
INFOS = {name: EngineInfo.of(engine) for name, engine in ENGINES.items()}
CPU = HOSTS["cpu"]

CHAIN = """\
name: chain
models:
  base: shop:tiny/model/safetensors
steps:
  f16: {uses: toy/convert, from: base}
  q4: {uses: toy/quantize, from: f16, with: {type: Q4_K_M}}
  chat: {uses: toy/serve, from: q4}
"""


def compiled(
    text: str,
    *,
    host: Host = CPU,
    pins: dict[str, Pin] | None = None,
    profiles: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    smoke: bool = False,
    **terms: Any,
) -> Compiled:
    """The recipe as it compiles; sources that have no pin in `pins` get the shop's."""
    file = RecipeFile("recipe.yaml", text)
    loaded = load([file], engines=INFOS, directory="/recipes", schemes=("shop", "smoke", "file"))
    selection = select(loaded, ENGINES, host, profiles=profiles, only=only, device=terms.get("device"))
    sources = sought(loaded, selection, INFOS, smoke)
    known = {source.name: toys.pin(source.references[0]) for source in sources} | (pins or {})
    return compile_recipe(
        loaded, selection, sources, known, ENGINES, SOURCES, Terms(host, smoke=smoke, **terms)
    )


def steps(compiled: Compiled) -> dict[str, CompiledStep]:
    return {step.name: step for step in compiled.steps}


def prints(compiled: Compiled) -> dict[str, str]:
    """Fingerprints by name."""
    return {step.name: step.fingerprint for step in compiled.steps}


def complaints(text: str, **more: Any) -> list[str]:
    """What is wrong with the recipe, as a user reads it."""
    try:
        compiled(text, **more)
    except QwendError as error:
        return error.lines()
    return []


def host(like: str = "cpu", **changes: Any) -> Host:
    """A sample host with changes."""
    return msgspec.structs.replace(HOSTS[like], **changes)
