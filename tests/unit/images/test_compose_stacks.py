"""Compose stacks name images by digest: what they name is what the image folders are now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from qwend.adapters import own_images

ROOT = Path(__file__).resolve().parents[3]
STACKS = sorted((ROOT / "compose").glob("*.yaml"))
PAGE = (ROOT / "compose" / "README.md").read_text("utf-8")


def test_there_are_stacks() -> None:
    assert STACKS


@pytest.mark.parametrize("stack", STACKS, ids=lambda path: path.name)
def test_a_stack_names_our_images_as_they_are_now(stack: Path) -> None:
    named = re.findall(r"qwend/([a-z0-9-]+):([a-z0-9]+)-([0-9a-f]{12})", stack.read_text("utf-8"))
    assert named
    for name, flavour, digest in named:
        now = own_images.load(name, flavour).digest[:12]
        assert digest == now, f"{stack.name}: write qwend/{name}:{flavour}-{now}"


@pytest.mark.parametrize("stack", STACKS, ids=lambda path: path.name)
def test_every_variable_of_a_stack_stands_on_the_page_with_its_default(stack: Path) -> None:
    used = dict(re.findall(r"\$\{(QWEND_\w+)(?::[-?]([^}]*))?\}", stack.read_text("utf-8")))
    rows = dict(re.findall(r"^\| `(QWEND_\w+)` \| (.*?) \|", PAGE, re.MULTILINE))
    assert rows.keys() == used.keys()
    for name, default in used.items():
        if rows[name] not in {"(needed)", "(none)"} and "…" not in rows[name]:
            assert rows[name] == f"`{default}`"


@pytest.mark.parametrize("stack", STACKS, ids=lambda path: path.name)
def test_every_service_of_a_stack_is_confined_and_watched(stack: Path) -> None:
    for service in yaml.safe_load(stack.read_text("utf-8"))["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == "10001:10001"
        assert service["healthcheck"]["test"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
