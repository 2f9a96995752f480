"""`ollama/serve`: which server it uses where, what a plan refuses, and that adapters are merged before it."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwend.core.compiler import compile_recipe
from qwend.core.engine_info import EngineInfo
from qwend.core.loader import RecipeFile, load
from qwend.core.selection import select
from qwend.core.sourcing import sought
from qwend.core.terms import Terms
from qwend.model.artifact import Facts, Pin
from qwend.model.plan import Compiled
from qwend.plugin import Finding, Given, Host, ImageSpec, ScratchRef, StepView
from qwend.plugin.samples import FACTS, HOSTS
from qwend_plugins.ollama.serve import Serve, ServeParams

HOST = Host("linux", "x86_64", 8)
GGUF = Given("base", "model/gguf", FACTS)
LIBRARY = Given(
    "base", "model/ollama", pin=Pin("ollama:qwen3:0.6b", "ollama:1", "model/ollama", revision="sha256:1")
)
DECLARED = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"][
    "entry-points"
]
MODULES = [importlib.import_module(name) for name in DECLARED["qwend.plugins.v1"].values()]
ENGINES = {engine.name: engine for one in MODULES for engine in getattr(one, "qwend_engines", list)()}
SOURCES = {source.scheme: source for one in MODULES for source in getattr(one, "qwend_sources", list)()}
INFOS = {name: EngineInfo.of(engine) for name, engine in ENGINES.items()}

MERGED = """
name: mine
models: {base: "smoke:qwen2"}
datasets: {talk: "smoke:data?kind=sft&rows=2"}
steps:
  adapter: {uses: TRAINER, from: base, with: {dataset: talk}}
  modelfile: {uses: ollama/modelfile, from: adapter}
  chat: {uses: ollama/serve, from: adapter, runtime: native}
"""


def step(model: Given = GGUF, runtime: str = "docker", **params: Any) -> StepView:
    return StepView("chat", "r", ServeParams(**params), inputs=(model,), runtime=runtime)


def findings(view: StepView) -> list[Finding]:
    return list(Serve().check(view, HOST))


def image(view: StepView) -> ImageSpec:
    made = Serve().image(view, HOST)
    assert isinstance(made, ImageSpec)
    return made


def compiled(text: str, host: Host, **terms: Any) -> Compiled:
    """A recipe as the engines that ship compile it, its sources pinned by hand."""
    loaded = load([RecipeFile("r.yaml", text)], engines=INFOS, directory="/r", schemes=tuple(SOURCES))
    selection = select(loaded, ENGINES, host, profiles=(), only=(), device=None)
    sources = sought(loaded, selection, INFOS, False)
    pins = {
        one.name: Pin(
            one.references[0],
            one.name,
            "dataset/sft" if one.name == "talk" else "model/safetensors",
            facts=Facts(rows=2) if one.name == "talk" else FACTS,
        )
        for one in sources
    }
    return compile_recipe(loaded, selection, sources, pins, ENGINES, SOURCES, Terms(host, **terms))


def test_a_container_holds_ollamas_own_image_by_its_digest_and_keeps_its_models() -> None:
    made, launch = image(step()), Serve().launch(step(), HOST)
    assert made.base is not None
    assert made.base.startswith("ollama/ollama:")
    assert "@sha256:" in made.base
    assert launch.argv[launch.argv.index("--models") + 1] == ScratchRef("models")
    assert launch.resumable, "what it keeps outlives a start"
    assert findings(step()) == []


@pytest.mark.parametrize("kind", ["model/gguf", "model/safetensors", "model/ollama"])
def test_a_modelfile_is_heard_only_where_it_is_what_was_given(kind: str) -> None:
    launch = Serve().launch(step(msgspec.structs.replace(GGUF, type=kind)), HOST)
    assert ("--modelfile" in launch.argv) is (kind == "model/ollama")


@pytest.mark.parametrize(
    "view", [step(runtime="native"), step(url="http://10.0.0.7:11434")], ids=["native", "elsewhere"]
)
def test_a_server_that_is_there_needs_the_client_only(view: StepView) -> None:
    launch = Serve().launch(view, HOST)
    assert image(view).base is None
    assert "--models" not in launch.argv
    assert not launch.resumable
    assert findings(view) == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:11434", "http://localhost:1", "https://[::1]:3", "http://127.9.9.9"]
)
def test_this_machines_own_addresses_are_another_place_for_a_container(url: str) -> None:
    [found] = findings(step(url=url))
    assert (found.key, found.level) == ("with.url", "error")
    assert "runtime: native" in str(found.hint)
    assert findings(step(runtime="native", url=url)) == []


@pytest.mark.parametrize(
    ("view", "key", "says"),
    [
        (step(managed=False), "with.managed", "no other Ollama than its own"),
        (step(managed=True, url="http://10.0.0.7:1"), "with.url", "a place of its own"),
        (step(name="Mine:q4"), "with.name", "lower-case letters"),
        (step(name="a b"), "with.name", "lower-case letters"),
        (step(Given("m", "model/gguf", Facts(architecture="mamba"))), "from", "does not load the architecture mamba"),
        (step(Given("m", "model/gguf", Facts(bits=4.5)), quantize="q8_0"), "with.quantize", "quantised already"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_told_at_its_key(view: StepView, key: str, says: str) -> None:
    assert [(one.key, says in one.message) for one in findings(view) if one.level == "error"] == [(key, True)]


def test_a_container_that_pulls_what_this_machine_may_hold_says_so() -> None:
    [found] = findings(step(LIBRARY))
    assert found.level == "warning"
    assert "pulls ollama:qwen3:0.6b into its own Ollama" in found.message
    assert findings(step(LIBRARY, runtime="native")) == []


def test_a_container_that_sees_no_file_beside_a_modelfile_says_so() -> None:
    mine = Given("mine", "model/ollama", pin=Pin("file:Modelfile", "sha256:1", "model/ollama"))
    [found] = findings(step(mine))
    assert found.level == "warning"
    assert "no file beside it" in found.message
    assert findings(step(mine, runtime="native")) == []


@pytest.mark.parametrize(
    ("trainer", "like", "merger"),
    [
        ("llama-factory/train", "cpu", "llama-factory/export"),
        ("mlx/lora", "cpu", "llama-factory/export"),
        ("mlx/lora", "apple", "mlx/fuse"),
    ],
)
def test_an_adapter_is_merged_first_by_a_step_that_the_plan_shows(
    trainer: str, like: str, merger: str
) -> None:
    made = compiled(MERGED.replace("TRAINER", trainer), HOSTS[like])
    steps = {one.name: one for one in made.steps}
    [merge] = [one for one in made.steps if one.engine == merger]
    assert merge.name == f"adapter.{merger.partition('/')[2]}"
    for name in ("modelfile", "chat"):
        assert [edge.step for edge in steps[name].inputs] == [merge.name]
        assert f"takes no adapter/lora: {merger} makes {merge.name} of it first" in steps[name].notices[0]
