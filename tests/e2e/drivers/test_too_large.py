"""A model that the memory cannot hold: the driver of transformers says so in one line, by torch's own refusal."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.conftest import cache_folder
from tests.e2e.drivers.conftest import Outcome

from qwend.plugin import load_image

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.engine("transformers", "serving", images=["transformers"]),
]

PLUGINS = Path(__file__).parents[3] / "plugins" / "qwend_plugins"
EMBEDDING = 20 * 10**9
"""Bytes of a matrix of which only the length is on the disk; in 32 bits it takes twice that."""
ROOM = 60 * 10**9
"""Bytes of addresses: enough to map the file and to import torch, not for the matrix in 32 bits beside them."""


def huge(tiny: Path, folder: Path) -> Path:
    """The tiny model with a vocabulary of 39 million tokens, in a file of which nearly all is a hole."""
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    rows = config["vocab_size"] = EMBEDDING // (2 * config["hidden_size"])
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    at = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        if "embed_tokens" in name:
            tensor["shape"][0] = rows
        count = 2
        for length in tensor["shape"]:
            count *= length
        tensor["data_offsets"], at = [at, at + count], at + count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with weights.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return folder


def test_a_checkpoint_larger_than_the_memory_is_told_in_one_line(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    spec = load_image("qwend_images:transformers", "cpu")
    python = cache_folder() / "images" / f"transformers-cpu-{spec.digest[:12]}" / "bin" / "python"
    if not python.exists():
        pytest.skip(
            "the image transformers (cpu) is not built: qwend images build transformers --flavour cpu"
        )
    drivers = tmp_path / "drivers"
    drivers.mkdir()
    for file in [
        *(PLUGINS / "transformers/drivers").glob("*.py"),
        *(PLUGINS / "serving/drivers").glob("*.py"),
    ]:
        shutil.copy(file, drivers)
    model = huge(tiny("qwen2", "--format", "safetensors"), tmp_path / "huge")
    report = tmp_path / "report.jsonl"
    words = ["--model", str(model), "--device", "cpu", "--dtype", "float32", "--name", "chat", "--port", "0"]
    ended = subprocess.run(
        [str(python), "-I", str(drivers / "tf_serve.py"), *words],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "QWEND_REPORT": str(report)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    error = Outcome(ended.returncode, ended.stdout, ended.stderr, rows).error
    assert error["message"] == "the memory of the machine does not suffice"
    assert "smaller or quantised model" in error["hint"]
