"""A server of torch's in a container: the image with the largest lock that CI builds, from the same recipe as ever."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, TIMEOUT_S, Docker, Qwend

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.docker,
    pytest.mark.engine(
        "transformers", "serving", images=["transformers"], also=["daemon/qwend/adapters/docker"]
    ),
]

RECIPE = str(ROOT / "recipes" / "transformers-chat.yaml")


def answer(url: str) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "model": "chat"}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as said:
        found: dict[str, Any] = json.load(said)
    return found


def test_transformers_serves_from_a_container_that_is_as_its_lock_says(qwend: Qwend, docker: Docker) -> None:
    qwend("up", "-d", "--smoke", "--runtime", "docker", RECIPE, timeout=1800)
    row = qwend.row("chat")
    assert (row["state"], row["runtime"]) == ("ready", "docker")
    assert answer(row["url"])["usage"]["completion_tokens"] > 0

    [container] = docker.containers("chat")
    host = container["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["NetworkMode"]) == (True, ["ALL"], "qwend-closed")
    assert container["Config"]["User"].partition(":")[0] == str(os.getuid() or 10001)
    differences = [
        one for one in qwend.json("images", "verify", "transformers")["differences"] if one["kind"] == "oci"
    ]
    assert differences == []
