"""Every recipe that ships is compiled and planned with the plugins that ship, for a laptop and for a real run."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.test_plugins import DECLARED

from qwend.core.planner import Snapshot, plan
from qwend.core.recipe_text import RecipeFile
from qwend.model.artifact import Pin
from qwend.model.host import Host
from qwend.model.plan import Compiled
from qwend.plugin.samples import FACTS, HOSTS
from qwend.worker.catalog import Catalogue
from qwend.worker.guarded import no_crumb
from qwend.worker.verbs import Verbs
from qwend.worker.wire import CompileReply, CompileRequest, LoadReply, LoadRequest, RecipeRequest, unpack

ROOT = Path(__file__).parents[3]
READY = sorted((ROOT / "recipes").glob("*.yaml"))
HOST = HOSTS["cpu"]


@pytest.fixture(scope="module")
def verbs() -> Verbs:
    catalogue = Catalogue()
    for name, module in DECLARED.items():
        catalogue.add(name, importlib.import_module(module), "qwend", "0", no_crumb)
    return Verbs(catalogue)


def ask(verbs: Verbs, verb: str, payload: Any, kind: Any) -> Any:
    return msgspec.json.decode(verbs.answer(verb, msgspec.json.encode(payload)), type=kind)


def pinned(loaded: LoadReply) -> dict[str, Pin]:
    """Pins as they would come: from the source itself, or as a hub would tell them."""
    found = {}
    for source in loaded.sources:
        first = source.candidates[0]
        assert first.resolution is not None
        kind = next(iter(source.options["wants"]))
        told = Pin(first.ref, f"{first.ref}@c0ffee", kind, facts=FACTS, revision="c0ffee")
        found[source.name] = first.resolution.pin or told
    return found


def compiled(verbs: Verbs, path: Path, host: Host = HOST, **options: Any) -> Compiled:
    files = (RecipeFile(path.name, path.read_text("utf-8")),)
    request = LoadRequest(RecipeRequest(files, str(path.parent), **options), host)
    pins = pinned(ask(verbs, "load", request, LoadReply))
    reply = ask(verbs, "compile", CompileRequest(request, pins), CompileReply)
    return unpack(reply.compiled, reply.contents)


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
@pytest.mark.parametrize("smoke", [True, False], ids=["smoke", "real"])
def test_a_ready_recipe_can_be_done_on_a_laptop(verbs: Verbs, path: Path, smoke: bool) -> None:
    made = plan(compiled(verbs, path, smoke=smoke), Snapshot(host=HOST))
    assert made.blockers == ()
    assert not smoke or made.warnings == ()
    assert made.actions[-1].verb in ("start", "run")


def test_smoke_touches_no_hub(verbs: Verbs) -> None:
    for path in READY:
        for step in compiled(verbs, path, smoke=True).steps:
            assert step.pin is None or step.pin.ref.startswith(("smoke:", "file:"))
            assert step.kind != "source" or step.launch is None or not step.launch.network


def test_changing_the_quantisation_rebuilds_it_and_replaces_the_service_and_nothing_else(
    verbs: Verbs,
) -> None:
    path = ROOT / "recipes" / "gguf.yaml"
    before = compiled(verbs, path, smoke=True)
    after = compiled(verbs, path, smoke=True, set=("steps.q4.with.type=Q5_K_M",))
    changed = {
        new.name
        for old, new in zip(before.steps, after.steps, strict=True)
        if old.fingerprint != new.fingerprint
    }
    assert changed == {"q4", "chat"}


def test_an_intel_mac_or_another_unknown_platform_is_told_before_anything_is_built(verbs: Verbs) -> None:
    path = ROOT / "recipes" / "gguf.yaml"
    odd = msgspec.structs.replace(HOST, machine="ppc64le")
    made = plan(compiled(verbs, path, host=odd, smoke=True), Snapshot(host=odd))
    assert any("here it would run on linux-ppc64le" in text for text in made.blockers)
