"""A recipe's lock: pins from a hub and the images of its steps, honoured and refused through the command line."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend
from tests.fakes.hub_server import HubServer

from qwend.model.image import load_image

pytestmark = [pytest.mark.e2e, pytest.mark.native]

RECIPE = """
version: 1
name: pinned
models: {base: hf:Qwen/Tiny}
steps:
  f16: {uses: llama-cpp/convert, from: base}
"""
CONVERT = ROOT / "images" / "qwend_images" / "llama-cpp-convert"


def checkpoint() -> dict[str, bytes]:
    """Enough of one for its facts to be read; nobody converts it."""
    header = {"w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 4}
    return {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": struct.pack("<Q", len(text)) + text + bytes(8),
        "tokenizer.json": b"{}",
    }


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("Qwen/Tiny", checkpoint(), commit="a1" * 20)
        yield server


@pytest.fixture
def locked(qwend: Qwend, hub: HubServer) -> Path:
    """The recipe, locked; the path of its lock."""
    (qwend.home / "qwend.toml").write_text(f'runtime = "native"\n[hub]\nhuggingface = "{hub.url}"\n')
    (qwend.folder / "pinned.yaml").write_text(RECIPE)
    said = qwend("lock", "-f", "pinned.yaml").splitlines()
    assert f"base: hf:Qwen/Tiny@{'a1' * 20}" in said
    assert "image llama-cpp-convert: recorded" in said
    return qwend.folder / "pinned.lock"


def content(path: Path) -> dict[str, Any]:
    body = "".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    found: dict[str, Any] = json.loads(body)
    return found


def test_a_lock_holds_revisions_and_the_images_of_every_flavour_and_is_honoured(
    qwend: Qwend, hub: HubServer, locked: Path
) -> None:
    images = content(locked)["images"]
    own = {flavour: load_image(CONVERT, flavour).digest for flavour in ("cpu", "apple")}
    assert images["llama-cpp-convert"] == own
    assert "up to date" in qwend("lock", "-f", "pinned.yaml")
    qwend("up", "--locked", "--dry-run", "-f", "pinned.yaml")

    # The hub moves on; the lock does not, until it is told to.
    hub.add("Qwen/Tiny", checkpoint(), commit="b2" * 20)
    assert "up to date" in qwend("lock", "-f", "pinned.yaml")
    moved = qwend("lock", "--upgrade", "base", "-f", "pinned.yaml")
    assert f"base: hf:Qwen/Tiny@{'a1' * 20} → hf:Qwen/Tiny@{'b2' * 20}" in moved


def test_images_that_are_not_those_of_the_lock_are_told_and_refused_where_it_may_not_change(
    qwend: Qwend, locked: Path
) -> None:
    now = load_image(CONVERT, "cpu").digest
    locked.write_text(locked.read_text().replace(now, "0" * 64))
    before = locked.read_text()
    ended = qwend.try_("up", "--locked", "--dry-run", "-f", "pinned.yaml")
    assert ended.returncode == 2, ended.stderr
    assert f"image llama-cpp-convert: cpu {'0' * 12} → cpu {now[:12]}" in ended.stderr
    assert locked.read_text() == before
    assert f"cpu {'0' * 12} → cpu {now[:12]}" in qwend("lock", "-f", "pinned.yaml")
    qwend("up", "--locked", "--dry-run", "-f", "pinned.yaml")


def test_a_name_to_upgrade_that_the_recipe_does_not_have_is_an_error(qwend: Qwend, locked: Path) -> None:
    before = locked.read_text()
    for name, words in (("nosuch", 'no model or dataset "nosuch"'), ("bsae", "did you mean base?")):
        ended = qwend.try_("lock", "--upgrade", name, "-f", "pinned.yaml")
        assert ended.returncode == 2, ended.stderr
        assert words in ended.stderr
    assert locked.read_text() == before
