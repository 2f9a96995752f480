"""compose/chat.yaml for real: a model that qwend made, served by Docker Compose alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Docker, Qwend

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

RECIPE = """
name: made
models: {base: smoke:qwen2}
steps:
  q8: {uses: llama-cpp/quantize, from: base, with: {type: Q8_0}, out: ./models}
"""
KEY = "a-key-of-the-test"


class Stack:
    """`docker compose` on chat.yaml, under a project name of its own."""

    def __init__(self, models: Path, model: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.project = f"qwend-test-{os.getpid()}"
        self._environ = {
            **os.environ, "QWEND_MODELS": str(models), "QWEND_MODEL": model, "QWEND_PORT": str(port),
            "QWEND_API_KEY": KEY, "QWEND_THREADS": "1",
        }  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        command = ["docker", "compose", "-p", self.project, "-f", str(ROOT / "compose" / "chat.yaml")]
        ended = subprocess.run(
            [*command, *arguments],
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert ended.returncode == 0, f"docker compose {' '.join(arguments)}: {ended.stderr}"
        return ended.stdout.strip()

    def ask(self, key: str) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 4}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        asked = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(asked, timeout=120) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@pytest.fixture
def stack(qwend: Qwend, docker: Docker) -> Iterator[Stack]:
    (qwend.folder / "made.yaml").write_text(RECIPE)
    qwend("up", "--runtime", "docker", "made.yaml")
    [model] = (qwend.folder / "models").rglob("*.gguf")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Stack(model.parent, model.name, port)
    yield made
    made("down", "--timeout", "5")


def test_a_model_that_qwend_made_is_served_confined_and_asked_for_its_key(
    stack: Stack, docker: Docker
) -> None:
    stack("up", "-d", "--wait")
    assert stack.ask(KEY)["usage"]["completion_tokens"] > 0
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.ask("another")

    container = stack("ps", "-q", "chat")
    seen = docker.inside(
        container, "grep -hE '^(Cap|NoNew|Uid)' /proc/1/status; touch /x /models/x 2>&1; true"
    )
    facts = dict(line.split(":\t", 1) for line in seen.splitlines() if ":\t" in line)
    assert {int(facts[name], 16) for name in facts if name.startswith("Cap")} == {0}
    assert (facts["NoNewPrivs"], set(facts["Uid"].split())) == ("1", {"10001"})
    assert seen.count("Read-only file system") == 2
    [health] = json.loads(docker("inspect", "--format", "[{{json .State.Health.Status}}]", container))
    assert health == "healthy"


SERVED = (
    RECIPE
    + """
  chat: {uses: llama-cpp/serve, from: q8, with: {context: 512}}
"""
)


def test_an_exported_recipe_is_served_by_docker_compose_alone(qwend: Qwend, docker: Docker) -> None:
    (qwend.folder / "made.yaml").write_text(SERVED)
    early = qwend.try_("export", "compose", "made.yaml")
    assert early.returncode == 2
    assert "chat reads q8, which is not made yet" in early.stderr
    qwend("up", "-d", "--runtime", "docker", "made.yaml")
    port = qwend.row("chat")["port"]
    qwend("down", "-p", "made")
    qwend("export", "compose", "made.yaml", "-o", "served")
    stack = [
        "docker",
        "compose",
        "-p",
        f"qwend-export-{os.getpid()}",
        "-f",
        str(qwend.folder / "served" / "compose.yaml"),
    ]

    def compose(*arguments: str) -> str:
        ended = subprocess.run([*stack, *arguments], capture_output=True, text=True, timeout=600, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    assert compose("config", "--services") == "chat"
    try:
        compose("up", "-d", "--wait")
        body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 4}
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=120) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] > 0
        [container] = json.loads(docker("inspect", compose("ps", "-q")))
        assert container["HostConfig"]["ReadonlyRootfs"]
        assert container["HostConfig"]["CapDrop"] == ["ALL"]
        assert {one["HostIp"] for one in container["NetworkSettings"]["Ports"][f"{port}/tcp"]} == {
            "127.0.0.1"
        }
    finally:
        compose("down", "--timeout", "5")
