"""The READMEs against the code: their recipe loads, their commands and files exist, both languages say the same."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from qwend.cli.verbs import COMMANDS
from qwend.model.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "README.zh-CN.md"]


def _blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _says_the_same(block: str) -> str:
    """A block without its comments."""
    return "\n".join(re.sub(r"\s+#.*", "", line) for line in block.splitlines())


@pytest.mark.parametrize("page", PAGES)
def test_the_recipe_of_a_readme_is_the_ready_recipe_of_that_name(page: str) -> None:
    (block,) = _blocks(page, "yaml")
    shown = yaml.safe_load(block)
    ready = yaml.safe_load((ROOT / "recipes" / f"{shown['name']}.yaml").read_text(encoding="utf-8"))
    Recipe.model_validate(shown)
    assert shown["models"] == ready["models"]
    assert list(shown["steps"]) == list(ready["steps"])
    for name, step in shown["steps"].items():  # what the page leaves out, it leaves out; what it shows is so
        made = ready["steps"][name]
        assert {key: made.get(key) for key in step} == step, name


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_what_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"\brecipes/\w+\.yaml", text):
        assert (ROOT / target).exists(), target
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(
        r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    named = {verb for span in code for verb in re.findall(r"\bqwend ([a-z]+)", span)}
    assert named <= set(COMMANDS), named - set(COMMANDS)
    assert page == "CONTRIBUTING.md" or "up" in named


def test_both_languages_name_the_same_commands_keys_and_files() -> None:
    named = []
    for page in PAGES:
        text = re.sub(
            r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
        )
        named.append(sorted(re.findall(r"`([^`\n]+)`", text)))
    assert named[0] == named[1]


def test_the_changelog_names_every_engine() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for module in declared["qwend.plugins.v1"].values():
        for engine in getattr(importlib.import_module(module), "qwend_engines", list)():
            assert f"`{engine.name}`" in text, engine.name


def test_both_languages_show_the_same_commands_outputs_and_pictures() -> None:
    for language in ("text", "sh", "yaml"):
        english, chinese = (list(map(_says_the_same, _blocks(page, language))) for page in PAGES)
        assert english == chinese
