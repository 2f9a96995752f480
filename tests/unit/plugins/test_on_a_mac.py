"""Where the engines that ship run on a Mac whose Docker answers."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import msgspec
import pytest

from qwend.core.placement import flavour
from qwend.core.terms import Terms
from qwend.model.recipe import Step
from qwend.plugin.samples import HOSTS

DECLARED = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"][
    "entry-points"
]
MODULES = [importlib.import_module(name) for name in DECLARED["qwend.plugins.v1"].values()]
ENGINES = {engine.name: engine for one in MODULES for engine in getattr(one, "qwend_engines", list)()}
METAL = [
    *sorted(name for name in ENGINES if name.startswith(("mlx/", "transformers/"))),
    *(f"llama-cpp/{word}" for word in ("serve", "bench", "perplexity", "complete", "chat")),
    "ollama/serve",
]
MAC = msgspec.structs.replace(HOSTS["apple"], docker="28.2")


@pytest.mark.parametrize("name", METAL)
def test_what_computes_with_metal_is_native_unless_the_recipe_says_otherwise(name: str) -> None:
    step = Step.model_validate({"uses": name})
    chosen, why = flavour(name, tuple(ENGINES[name].flavours), step, MAC, None)
    assert (chosen, why) == ("apple", "Apple M4 Pro")
    runtime, why = Terms(MAC, runtimes=("native", "docker")).place(chosen, step.runtime, None)
    assert (runtime, why) == ("native", "Metal is not to be had in a container")


@pytest.mark.parametrize("name", METAL)
def test_on_linux_the_same_step_runs_where_docker_answers(name: str) -> None:
    linux = msgspec.structs.replace(HOSTS["cpu"], docker="28.2")
    step = Step.model_validate({"uses": name})
    chosen, _ = flavour(name, tuple(ENGINES[name].flavours), step, linux, None)
    runtime, _ = Terms(linux, runtimes=("native", "docker")).place(chosen, step.runtime, None)
    assert (chosen, runtime) == ("cpu", "docker")
