"""Every engine and source that ships keeps the contract of the plugin door."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwend.plugin.testing import check_engine, check_source, views
from qwend.worker.catalog import Catalogue
from qwend.worker.guarded import no_crumb

ROOT = Path(__file__).parents[2]
DECLARED: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
    "qwend.plugins.v1"
]


def engines() -> Iterator[Any]:
    """One parameter for each engine; for a plugin that cannot be imported one that fails."""
    for name, module in DECLARED.items():
        try:
            found = list(getattr(importlib.import_module(module), "qwend_engines", list)())
        except Exception:
            yield pytest.param(module, None, id=name)
        else:
            yield from (pytest.param(module, engine, id=engine.name) for engine in found)


def sources() -> Iterator[Any]:
    for module in DECLARED.values():
        try:
            found = list(getattr(importlib.import_module(module), "qwend_sources", list)())
        except Exception:  # told by the test of its engines
            continue
        yield from (pytest.param(source, id=source.scheme) for source in found)


@pytest.mark.parametrize(("module", "engine"), list(engines()))
def test_an_engine_keeps_the_contract(module: str, engine: Any) -> None:
    if engine is None:
        importlib.import_module(module)
    assert [finding.message for finding in check_engine(engine)] == []


@pytest.mark.parametrize(("module", "engine"), list(engines()))
def test_a_step_of_every_engine_can_be_made_up_for_each_flavour_and_input(module: str, engine: Any) -> None:
    sampled = [special for special, _, _ in views(engine)]
    for flavour in engine.flavours:
        for kind in engine.accepts or ("",):
            assert f"{flavour} from {kind}".removesuffix(" from ") in sampled


SERVICES = [one for one in engines() if getattr(one.values[1], "kind", "") == "service"]


@pytest.mark.parametrize(("module", "engine"), SERVICES)
def test_a_service_is_asked_for_one_token_through_its_own_api(module: str, engine: Any) -> None:
    """A server that hangs behind a health page that smiles is found out by the work that it does not do."""
    for special, view, host in views(engine):
        probe = engine.launch(view, host).probe
        assert probe is not None and probe.work is not None and probe.work.body is not None, special
        body = probe.work.body
        assert probe.work.path.startswith("/v1/"), special
        assert body["model"] == view.name and probe.work.field, special
        assert body.get("max_tokens", 1) == 1, special


@pytest.mark.parametrize("source", list(sources()))
def test_a_source_keeps_the_contract(source: Any) -> None:
    assert [finding.message for finding in check_source(source)] == []


def test_all_that_ships_can_be_registered_together() -> None:
    catalogue = Catalogue()
    for name, module in DECLARED.items():
        catalogue.add(name, importlib.import_module(module), "qwend", "0", no_crumb)
    assert {"hf", "modelscope", "file", "https", "smoke"} <= catalogue.sources.keys()
    assert {"hub/fetch", "llama-cpp/quantize", "llama-cpp/serve"} <= catalogue.engines.keys()
    assert all("/" in engine for engine in catalogue.engines)


def test_plugins_import_only_the_door() -> None:
    for path in (ROOT / "plugins" / "qwend_plugins").rglob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["from"], ["import"]) and words[1].startswith("qwend."):
                assert words[1] in ("qwend.plugin", "qwend.plugin.testing"), f"{path}: {line}"
