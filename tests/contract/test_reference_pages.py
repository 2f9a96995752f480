"""Each plugin's page is held to its engines: every engine, every parameter, its default, and no other."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[2]
DECLARED: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
    "qwend.plugins.v1"
]


def pages() -> Iterator[Any]:
    """One case for each engine of a plugin that has a page."""
    for module in DECLARED.values():
        page = ROOT / "plugins" / module.replace(".", "/") / "README.md"
        if page.is_file():
            for engine in getattr(importlib.import_module(module), "qwend_engines", list)():
                yield pytest.param(page.read_text(encoding="utf-8"), engine, id=engine.name)


def section(page: str, engine: str) -> str:
    """What stands below the heading of an engine."""
    found = re.search(rf"^## `{re.escape(engine)}`[^\n]*\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, f"the page has no heading ## `{engine}`"
    return found[1]


def spelled(value: Any) -> str:
    """A default as the pages write it."""
    if value is PydanticUndefined:
        return "required"
    if value in (None, (), {}):
        return "none"
    return f"`{json.dumps(value)}`".replace('"', "")


@pytest.mark.parametrize(("page", "engine"), list(pages()))
def test_the_page_lists_every_parameter_of_an_engine_with_its_default_and_no_other(
    page: str, engine: Any
) -> None:
    table = section(page, engine.name).partition("| parameter | default | meaning |")[2].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", table, re.MULTILINE))
    expected = {
        field.alias or name: spelled(field.get_default(call_default_factory=not field.is_required()))
        for name, field in engine.params.model_fields.items()
    }
    assert told == expected


@pytest.mark.parametrize(("page", "engine"), list(pages()))
def test_the_page_says_what_an_engine_takes(page: str, engine: Any) -> None:
    text = section(page, engine.name)
    for kind in engine.accepts:
        assert f"`{kind}`" in text, f"## `{engine.name}` does not say that it takes {kind}"
