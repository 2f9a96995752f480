"""The JSON Schema says what the loader says, as far as a schema can."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from tests.unit.core.loader_kit import ENGINES, GOOD, complaints
from tests.unit.core.test_loader_references import LADDER

from qwend.core.marks import to_data
from qwend.core.recipe_text import RecipeFile
from qwend.core.schema import DIALECT, recipe_schema
from qwend.core.yaml_parser import parse

SCHEMA = recipe_schema(ENGINES.values())
VALIDATOR = Draft202012Validator(SCHEMA)


def data(text: str) -> Any:
    root, errors = parse(RecipeFile("r.yaml", text))
    assert root is not None
    assert errors == []
    return to_data(root, {})[0]


def test_the_schema_is_one_of_its_dialect() -> None:
    assert SCHEMA["$schema"] == DIALECT
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "text", [GOOD, LADDER, GOOD + "    restart: no\n    gpus: [7, GPU-1]\n    memory: 8GiB\n"]
)
def test_what_loads_is_valid(text: str) -> None:
    assert complaints(text) == []
    assert list(VALIDATOR.iter_errors(data(text))) == []


def test_keys_of_the_user_and_variables_are_valid() -> None:
    recipe = yaml.safe_load(GOOD)
    recipe["x-note"] = [1]
    recipe["steps"]["chat"]["port"] = "${PORT:-8080}"
    recipe["steps"]["q4"]["with"]["type"] = "${TYPE}"
    assert list(VALIDATOR.iter_errors(recipe)) == []


@pytest.mark.parametrize(
    "change",
    [
        ("Q4_K_M", "Q4_K_N"), ("type: Q4_K_M", "typ: Q4_K_M"), ("with: {type: Q4_K_M}", "with: {}"),
        ("    with: {type: Q4_K_M}\n", ""), ("llama-cpp/serve", "llama-cpp/server"), ("from: base", "from: 5"),
        ("    from: base\n", ""), ("with: {type: Q4_K_M}", "matrix: {type: [Q9]}"), ("version: 1", "version: 2"),
        ("with: {type: Q4_K_M}", "matrix: {}"), ("with: {type: Q4_K_M}", "matrix: {type: []}"),
        ("with: {type: Q4_K_M}", "with: {type: Q4_K_M}\n    port: 80"), ("from: q4", "from: q4\n    timeout: 1m"),
        ("name: good", "name: Good"), ("  q4:", "  Q4:"), ("from: q4", "from: q4\n    prot: 1"),
        ("from: q4", "from: q4\n    env: {1-: x}"), ("from: q4", "from: q4\n    restart: maybe"),
    ],
)  # fmt: skip
def test_what_an_editor_can_see_is_wrong_is_invalid_as_it_is_refused(change: tuple[str, str]) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    assert complaints(text) != []
    assert list(VALIDATOR.iter_errors(data(text))) != []


def test_every_key_explains_itself() -> None:
    for name, definition in {"Recipe": SCHEMA, **SCHEMA["$defs"]}.items():
        for key, item in definition.get("properties", {}).items():
            assert item.get("description"), f"{name}.{key} has no description"


def test_two_engines_with_definitions_of_one_name_do_not_clash() -> None:
    from typing import Literal

    from qwend.core.engine_info import EngineInfo
    from qwend.plugin import Params

    def engine(name: str, word: str) -> EngineInfo:
        Inner = type("Inner", (Params,), {"__annotations__": {"word": Literal[word]}})
        Outer = type("Outer", (Params,), {"__annotations__": {"inner": Inner}})
        return EngineInfo(name, "job", Outer)

    schema = recipe_schema([engine("a/x", "one"), engine("b/x", "two")])
    validator = Draft202012Validator(schema)

    def recipe(uses: str, word: str) -> dict[str, Any]:
        return {"name": "r", "steps": {"s": {"uses": uses, "with": {"inner": {"word": word}}}}}

    assert validator.is_valid(recipe("a/x", "one"))
    assert validator.is_valid(recipe("b/x", "two"))
    assert not validator.is_valid(recipe("a/x", "two"))
