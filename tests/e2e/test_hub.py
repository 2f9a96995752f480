"""A download that is killed: its step fails with one error, nothing half-written is seen, the next `up` goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Qwend
from tests.fakes.hub_server import HubServer, Repo

pytestmark = [pytest.mark.e2e, pytest.mark.native]
CONFIG = json.dumps({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 1000})
RECIPE = """\
name: hub
models: {base: hf:Qwen/Tiny}
steps:
  copy: {uses: hub/fetch, from: base}
"""
WITHIN_S = 300


def weights() -> bytes:
    """A safetensors file of one tensor of 3 MB, which no compression would make smaller."""
    data = random.Random(0).randbytes(3_000_000)
    header = {"w": {"dtype": "F16", "shape": [1000, 1500], "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


WEIGHTS = weights()


@pytest.fixture
def repo() -> Iterator[tuple[HubServer, Repo]]:
    with HubServer() as server:
        yield server, server.add("Qwen/Tiny", {"config.json": CONFIG.encode(), "model.safetensors": WEIGHTS})


def parts(home: Path) -> int:
    """Bytes of unfinished downloads."""
    sizes = [0]
    for path in (home / "store" / "work").glob("*/scratch/partial/*.part"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue
    return sum(sizes)


def test_a_killed_download_is_one_error_and_the_next_up_goes_on_where_it_ended(
    qwend: Qwend, repo: tuple[HubServer, Repo], tmp_path: Path
) -> None:
    server, shelf = repo
    qwend.environ |= {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "MODELSCOPE_CACHE": str(tmp_path / "ms"),
    }
    (qwend.folder / "hub.yaml").write_text(RECIPE)
    shelf.rate = 50_000  # a minute in all
    up = qwend.start("up", "hub.yaml")
    until = time.monotonic() + WITHIN_S
    while parts(qwend.home) < 100_000:
        assert up.poll() is None, up.communicate()
        assert time.monotonic() < until, "nothing is downloaded"
        time.sleep(0.01)
    os.kill(qwend.row("base")["pid"], signal.SIGKILL)
    out, err = up.communicate(timeout=WITHIN_S)
    assert up.returncode == 1, out + err
    (line,) = [line for line in err.splitlines() if line.startswith("qwend: ")]
    assert line.startswith("qwend: base: ended by signal 9"), err
    assert "Traceback" not in out + err
    assert qwend.json("store", "ls") == []
    had = parts(qwend.home)
    assert 100_000 <= had < len(WEIGHTS)

    shelf.rate = None
    server.answers.clear()
    qwend("up", "hub.yaml")
    assert sum(answer.sent for answer in server.answers if answer.status == 206) == len(WEIGHTS) - had
    qwend("store", "export", qwend.row("copy")["artifact"], "out")
    assert (qwend.folder / "out" / "model.safetensors").read_bytes() == WEIGHTS
    assert parts(qwend.home) == 0
    assert qwend.json("store", "verify")["bad"] == []
