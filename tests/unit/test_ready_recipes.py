"""The recipes that ship load with the engines that ship, and their schema agrees."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from qwend.core.engine_info import EngineInfo
from qwend.core.loader import Loaded, RecipeFile, load
from qwend.core.marks import to_data
from qwend.core.schema import recipe_schema
from qwend.core.yaml_parser import parse

RECIPES = Path(__file__).parents[2] / "recipes"
READY = sorted(RECIPES.glob("*.yaml"))
DECLARED: dict[str, str] = tomllib.loads((RECIPES.parent / "pyproject.toml").read_text())["project"][
    "entry-points"
]["qwend.plugins.v1"]
ENGINES = {
    engine.name: EngineInfo.of(engine)
    for module in DECLARED.values()
    for engine in getattr(importlib.import_module(module), "qwend_engines", list)()
}
VALIDATOR = Draft202012Validator(recipe_schema(ENGINES.values()))


def loaded(path: Path) -> Loaded:
    return load([RecipeFile(path.name, path.read_text(encoding="utf-8"))], engines=ENGINES)


def test_the_two_recipes_of_the_readme_are_there() -> None:
    assert {"quickstart.yaml", "gguf.yaml"} <= {path.name for path in READY}


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_recipe_loads_without_a_warning(path: Path) -> None:
    assert loaded(path).warnings == ()
    assert loaded(path).recipe.name == path.stem.replace("-", "_")


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_recipe_is_valid_for_an_editor(path: Path) -> None:
    root, errors = parse(RecipeFile(path.name, path.read_text(encoding="utf-8")))
    assert root is not None
    assert errors == []
    assert list(VALIDATOR.iter_errors(to_data(root, {})[0])) == []


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_recipe_begins_with_a_line_that_says_what_it_does(path: Path) -> None:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# ")
    assert 20 < len(first) <= 100


def test_the_chain_of_gguf_is_what_it_says() -> None:
    chain = {variant.name: variant.inputs for variant in loaded(RECIPES / "gguf.yaml").variants}
    assert chain == {"f16": ("base",), "q4": ("f16",), "chat": ("q4",)}


def test_the_quickstart_ends_with_a_model_that_needs_no_hub() -> None:
    sources = loaded(RECIPES / "quickstart.yaml").recipe.models["base"].from_
    assert [source.partition(":")[0] for source in sources] == ["hf", "modelscope", "smoke"]
