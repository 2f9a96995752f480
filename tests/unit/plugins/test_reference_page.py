"""`plugins/README.md` is held to the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import qwend.plugin as door
from qwend.model.artifact import ARTIFACT_TYPES
from qwend.model.launch import Launch, Ref
from qwend.plugin.hooks import GROUP, Hooks
from qwend.plugin.protocols import Engine, Given, Source, StepView

PAGE = (Path(__file__).parents[3] / "plugins" / "README.md").read_text(encoding="utf-8")
WORDS = set(re.findall(r"`([^`\n]+)`", PAGE))


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_hook_stands_there_with_its_signature_and_no_other() -> None:
    hooks = {name: hook for name, hook in vars(Hooks).items() if name.startswith("qwend_")}
    told = {}
    for row in re.findall(r"^\| `(qwend_\w+)(\(.*?\) -> [^`]+)` \|", PAGE, re.MULTILINE):
        told[row[0]] = row[1]
    expected = {
        name: str(inspect.signature(hook)).replace("(self, ", "(").replace("(self)", "()").replace("'", "")
        for name, hook in hooks.items()
    }
    assert told == expected
    assert GROUP in PAGE


def test_everything_that_the_door_exports_stands_there() -> None:
    known = {re.split(r"[(\[ ]", word)[0] for word in WORDS}
    missing = [name for name in door.__all__ if name not in known]
    assert missing == []


def test_everything_that_is_named_as_an_export_is_one() -> None:
    told = set(re.findall(r"`(\w+)`", section("What the door exports")))
    assert told <= set(door.__all__)


@pytest.mark.parametrize(("protocol", "title"), [(Engine, "Engine"), (Source, "Source")])
def test_every_attribute_and_method_stands_there(protocol: type, title: str) -> None:
    told = section(title)
    for name in protocol.__annotations__:
        assert f"`{name}`" in told
    for name, method in vars(protocol).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            arguments = ", ".join(list(inspect.signature(method).parameters)[1:])
            assert f"`{name}({arguments})`" in told


@pytest.mark.parametrize("kind", [StepView, Given])
def test_every_field_of_what_an_engine_sees_stands_there(kind: type) -> None:
    told = section("Engine")
    for field in kind.__struct_fields__:  # type: ignore[attr-defined]
        assert f"`{field}`" in told


def test_every_reference_and_field_of_a_launch_stands_there() -> None:
    told = section("Launch")
    for ref in Ref.__args__:
        assert f"`{ref.__name__}(" in told
    for field in Launch.__struct_fields__:
        assert f"`{field}`" in told or f"`{field}:" in told


def test_every_artifact_type_stands_there_and_no_other() -> None:
    listed = section("Artifact types").strip().split("\n\n")[0]
    assert tuple(re.findall(r"`([a-z/-]+)`", listed)) == ARTIFACT_TYPES
