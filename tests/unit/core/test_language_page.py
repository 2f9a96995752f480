"""recipes/README.md says what the code does: every key, default, description, word and bound."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import qwend_plugins.llama_cpp
from qwend.core import gate, interpolate, loader, matrix, recipe_checks, recipe_text, references, yaml_parser
from qwend.core.engine_info import EngineInfo
from qwend.core.loader import RecipeFile, load
from qwend.errors import UsageError
from qwend.model.recipe import Health, Recipe, Restart, SourceSpec, Step, When

PAGE = (Path(__file__).parents[3] / "recipes" / "README.md").read_text(encoding="utf-8")
SECTIONS: dict[str, type[BaseModel]] = {
    "## Top level": Recipe,
    "## A model or dataset": SourceSpec,
    "## A step": Step,
    "### restart": Restart,
    "### health": Health,
    "### when": When,
}
ENGINES = {engine.name: EngineInfo.of(engine) for engine in qwend_plugins.llama_cpp.qwend_engines()}


def section(heading: str) -> str:
    text = PAGE.split(f"\n{heading}\n", 1)[1]
    return re.split(r"^##", text, maxsplit=1, flags=re.MULTILINE)[0]


def table(heading: str) -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", section(heading), re.MULTILINE)
    return {key: (default.strip("`"), meaning) for key, default, meaning in rows}


def spelt(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default: Any = field.default
    if default is PydanticUndefined or default is None or default == ():
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_stands_there_with_its_default_and_meaning(heading: str) -> None:
    fields = SECTIONS[heading].model_fields
    assert table(heading) == {
        field.alias or name: (spelt(field), field.description) for name, field in fields.items()
    }


@pytest.mark.parametrize(
    ("model", "key"),
    [
        (Step, "runtime"),
        (Step, "device"),
        (Step, "network"),
        (Step, "replace"),
        (Restart, "policy"),
        (When, "device"),
        (When, "system"),
    ],
)
def test_every_word_of_an_enumeration_stands_there(model: type[BaseModel], key: str) -> None:
    heading = next(heading for heading, kind in SECTIONS.items() if kind is model)
    annotation = model.model_fields[key].annotation
    words = [
        word for part in get_args(annotation) for word in (get_args(part) or (part,)) if isinstance(word, str)
    ]
    assert words
    sentence = re.search(rf"`{key}`\s+(?:is )?one\s+of\s+([^;.]+)", section(heading))
    assert sentence is not None
    assert re.findall(r"`([^`]+)`", sentence[1]) == words


def test_the_keys_of_services_and_jobs_stand_there() -> None:
    found = re.search(r"For services only: (.+?)\. For jobs only: (.+?)\. ", section("## A step"), re.DOTALL)
    assert found is not None
    assert tuple(re.findall(r"`(\w+)`", found[1])) == recipe_checks.SERVICE_ONLY
    assert tuple(re.findall(r"`(\w+)`", found[2])) == recipe_checks.JOB_ONLY


def test_every_kind_of_reference_stands_there() -> None:
    text = section("## A model or dataset")
    assert {f"`{scheme}:" for scheme in references.SCHEMES} <= set(re.findall(r"`\w+:", text))
    smoke = re.findall(r"`smoke:(\w+)`", text)
    assert tuple(smoke) == recipe_checks.SMOKE_MODELS


def test_every_operator_of_a_gate_stands_there() -> None:
    found = re.search(r"operators are (.+?)\. ", section("### expect"), re.DOTALL)
    assert found is not None
    assert re.findall(r"`([^`]+)`", found[1]) == list(gate.OPERATORS)
    examples = re.findall(r"^      - (.+)$", section("### expect"), re.MULTILINE)
    assert [gate.parse(example).text for example in examples] == examples


def test_the_bounds_are_those_of_the_code() -> None:
    assert recipe_text.MAX_BYTES == 4 * 1024 * 1024
    assert f"{yaml_parser.DEFAULT.values:,} values" in PAGE
    assert f"{yaml_parser.DEFAULT.depth} levels" in PAGE
    assert f"{loader.MAX_STEPS:,} steps" in PAGE
    assert f"and {matrix.MAX_VARIANTS} steps" in PAGE


def test_every_form_of_a_variable_does_what_stands_there() -> None:
    found = re.findall(r"`(\$\{NAME(?::?[-?+]\w+)?\})`", section("## Variables"))
    forms = list(dict.fromkeys(found))
    assert len(forms) == 7
    assert {form: outcome(form, {"NAME": "x"}) for form in forms} == {
        "${NAME}": "x", "${NAME:-text}": "x", "${NAME-text}": "x", "${NAME:?message}": "x", "${NAME?message}": "x",
        "${NAME:+text}": "text", "${NAME+text}": "text",
    }  # fmt: skip
    assert {form: outcome(form, {"NAME": ""}) for form in forms} == {
        "${NAME}": "", "${NAME:-text}": "text", "${NAME-text}": "", "${NAME:?message}": "!", "${NAME?message}": "",
        "${NAME:+text}": "", "${NAME+text}": "text",
    }  # fmt: skip
    assert {form: outcome(form, {}) for form in forms} == {
        "${NAME}": "!", "${NAME:-text}": "text", "${NAME-text}": "text", "${NAME:?message}": "!",
        "${NAME?message}": "!", "${NAME:+text}": "", "${NAME+text}": "",
    }  # fmt: skip


def outcome(form: str, env: dict[str, str]) -> str:
    try:
        return interpolate.interpolate(form, env)
    except interpolate.InterpolationError:
        return "!"


def first_recipe() -> str:
    found = re.search(r"```yaml\n(version: 1\n.+?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_first_recipe_loads() -> None:
    loaded = load([RecipeFile("gguf.yaml", first_recipe())], engines=ENGINES)
    assert [variant.name for variant in loaded.variants] == ["f16", "q4", "chat"]


def test_the_mistake_that_is_shown_is_the_one_that_is_told() -> None:
    shown = re.search(r"```\n(gguf\.yaml:.+)\n```", PAGE)
    assert shown is not None
    text = (Path(__file__).parents[3] / "recipes" / "gguf.yaml").read_text(encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load([RecipeFile("gguf.yaml", text.replace("type: Q4_K_M", "type: Q4_K_N"))], engines=ENGINES)
    (line,) = caught.value.lines()
    assert line.partition(": ")[2] == shown[1].partition(": ")[2]
