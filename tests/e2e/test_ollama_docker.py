"""Ollama's server in a container: our image on somebody else's, its models kept, what is ours lent to it.

Ollama's image cannot be had without its registry. A local image stands in for it, which has a stand-in of the server
where Ollama's has the program (`tests/fakes/ollama_server.py`); it is set in its place as a mirror's would be.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT, Docker, Qwend, local_base
from tests.e2e.test_ollama import ask
from tests.fakes.ollama_server import LIBRARY, MANIFEST

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.docker,
    pytest.mark.engine("ollama", images=["ollama", "smoke"], also=["daemon/qwend/adapters/docker"]),
]

RECIPE = """
name: boxed
models: {base: "smoke:qwen2"}
steps:
  chat: {uses: ollama/serve, from: base, runtime: docker, restart: no, with: {system: Be brief.}}
"""
ASKED = "import urllib.request as u; print(u.urlopen('{url}/fake/requests', timeout=60).read().decode())"


@pytest.fixture
def upstream(qwend: Qwend, docker: Docker, tmp_path: Path) -> Iterator[str]:
    """The tag of an image that stands for Ollama's, set in its place for this home."""
    base, tag = local_base(), f"qwend-test-ollama:{uuid.uuid4().hex[:12]}"
    assert base is not None
    program = tmp_path / "ollama"
    source = (ROOT / "tests" / "fakes" / "ollama_server.py").read_text()
    program.write_text(
        f"#!/usr/bin/python3\n# {tag}\n{source}"
    )  # its own layer: no other test's is found for it
    program.chmod(0o755)
    container = docker("create", base[0], "true")
    docker("cp", str(program), f"{container}:/usr/bin/ollama")
    changes = ('ENTRYPOINT ["/usr/bin/ollama"]', "ENV OLLAMA_HOST=0.0.0.0:11434")
    id_ = docker("commit", *(word for one in changes for word in ("--change", one)), container, tag)
    docker("rm", container)
    with (qwend.home / "qwend.toml").open("a") as settings:
        settings.write(f'bases = {{ollama = {{base = "{tag}", base_id = "{id_}"}}}}\n')
    yield tag
    label = "label=org.opencontainers.image.base.name=" + tag
    ours = docker("images", "-q", "--no-trunc", "--filter", label).split()
    for one in docker.containers() if (qwend.home / "instance").exists() else []:
        docker("rm", "-f", one["Id"])
    docker("rmi", "-f", *ours, tag)


def requests(qwend: Qwend, docker: Docker) -> list[str]:
    """What the server in the container of `chat` was asked, by what its driver says of where it listens."""
    [container] = docker.containers("chat")
    url = re.findall(r"Ollama 0\.14\.0 at (http://127\.0\.0\.1:\d+)", qwend("logs", "boxed/chat"))[-1]
    script = f'/opt/qwend/bin/python -c "{ASKED.format(url=url)}"'
    found: list[str] = json.loads(docker.inside(container["Id"], script))
    return found


def test_a_container_holds_the_server_and_what_it_made(qwend: Qwend, docker: Docker, upstream: str) -> None:
    (qwend.folder / "boxed.yaml").write_text(RECIPE)
    plan = qwend("plan", "boxed.yaml")
    assert "ollama-server-" in plan
    qwend("up", "-d", "boxed.yaml")
    row = qwend.row("chat")
    assert (row["state"], row["runtime"]) == ("ready", "docker")
    answer = ask(row["url"])
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("chat", "hello there")

    # The model was lent, not sent; it was created once.
    asked = requests(qwend, docker)
    assert [one for one in asked if one.startswith("POST /api/blobs/")] == []
    assert asked.count("POST /api/create") == 1
    models = qwend.home / "run" / "boxed" / "chat" / "scratch" / "models"
    [blob] = (models / "blobs").iterdir()
    assert os.readlink(blob).startswith("/in/base/")
    [name] = json.loads((models / "models.json").read_text())
    assert name.startswith("qwend/boxed-chat:")

    # Started again, the server has what it had.
    qwend("restart", "boxed/chat")
    qwend("up", "-d", "boxed.yaml")
    assert ask(qwend.row("chat")["url"])["model"] == "chat"
    assert "POST /api/create" not in requests(qwend, docker)

    # What it keeps is cleared up once it is stopped.
    qwend("store", "prune")
    assert models.is_dir(), "a service that runs keeps what it has"
    qwend("down", "-p", "boxed")
    qwend("store", "prune")
    assert not models.exists()


def test_a_chat_with_a_model_of_ollamas_library_pulls_it_into_the_container(
    qwend: Qwend, docker: Docker, upstream: str, tmp_path: Path
) -> None:
    (name,) = LIBRARY
    place = tmp_path / "home" / ".ollama/models/manifests/registry.ollama.ai/library" / name.replace(":", "/")
    place.parent.mkdir(parents=True)
    place.write_bytes(MANIFEST)  # from which it is pinned, in place of the registry's
    qwend.environ["DOCKER_CONFIG"] = os.environ.get("DOCKER_CONFIG") or str(Path.home() / ".docker")
    qwend.environ["HOME"] = str(tmp_path / "home")
    ended = qwend.try_("chat", f"ollama:{name}", "--runtime", "docker", "-m", "hello there")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "hello there"
    assert "runtime: native uses it where it lies" in ended.stderr
