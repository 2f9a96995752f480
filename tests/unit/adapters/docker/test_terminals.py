"""Containers for a client's terminal: on a real engine, started by the `docker` command as a client does it."""

# ruff: noqa: ASYNC220 (a test has its loop to itself)

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import docker
import pytest

from qwend.adapters.docker.identity import INSTANCE, MARKER, OWNED
from qwend.adapters.docker.runtime import DockerRuntime
from qwend.adapters.docker.terminals import attachable
from qwend.effects import Screen, Terminal
from qwend.model.launch import Launch, SecretRef

from .conftest import MakeOrder

pytestmark = pytest.mark.docker
needs_command = pytest.mark.skipif(shutil.which("docker") is None, reason="the docker command is not there")


def run(terminal: Terminal, said: str) -> subprocess.CompletedProcess[str]:
    """What comes of it where standard input is a pipe."""
    return subprocess.run(
        terminal.argv, env={**os.environ, **terminal.env}, input=said, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def terminals(engine: docker.APIClient, instance: str) -> list[Any]:
    found: list[Any] = engine.containers(all=True, filters={"label": f"org.qwend.terminal={instance}"})
    return found


def test_nothing_that_supervises_steps_takes_it_for_one() -> None:
    body = {
        "Env": [],
        "Labels": {INSTANCE: "i", MARKER: "m", OWNED: "/a"},
        "HostConfig": {"AutoRemove": False},
    }
    made = attachable(body, "i", Screen(tty=True, term="xterm", client=7))
    assert INSTANCE not in made["Labels"] and MARKER not in made["Labels"]
    assert made["Tty"] and made["OpenStdin"] and made["StdinOnce"] and "TERM=xterm" in made["Env"]
    assert made["HostConfig"] == {"AutoRemove": True, "LogConfig": {"Type": "none", "Config": {}}}


@needs_command
async def test_a_client_talks_to_it_and_nothing_is_left(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, engine: docker.APIClient, instance: str
) -> None:
    launch = Launch(
        argv=("sh", "-c", 'read line; echo "heard $line"; cat "$0"; exit 3', SecretRef("key")),
        secrets=("key",),
    )
    order = make_order(step="chat", image=base, launch=launch, secrets={"key": "canary"}, output=None)
    terminal = await runtime.attach(order, Screen(client=os.getpid()))
    assert await runtime.living() == {}, "it is nobody's to supervise"
    assert len(terminals(engine, instance)) == 1, "its client lives"
    ended = run(terminal, "hello\nnever read\n")
    assert (ended.returncode, ended.stdout) == (3, "heard hello\ncanary")
    await runtime.detach(order)
    assert terminals(engine, instance) == [] and await runtime.backlog() == []


async def test_one_that_was_never_started_goes_with_its_client(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, engine: docker.APIClient, instance: str
) -> None:
    order = make_order("cat", step="chat", image=base, output=None)
    await runtime.attach(order, Screen(client=os.getpid()))
    await runtime.detach(order)
    assert terminals(engine, instance) == []


async def test_what_a_killed_client_and_a_killed_daemon_leave_goes_with_the_next_daemon(
    runtime: DockerRuntime,
    make_order: MakeOrder,
    base: str,
    engine: docker.APIClient,
    instance: str,
    tmp_path: Path,
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    order = make_order("cat", step="chat", image=base, output=None)
    await runtime.attach(order, Screen(client=gone.pid))
    mine = make_order("cat", step="other", image=base, output=None)
    await runtime.attach(mine, Screen(client=os.getpid()))
    following = DockerRuntime(instance, secrets_root=tmp_path / "next")
    try:
        await following.living()
        names = [listed["Names"][0] for listed in terminals(engine, instance)]
        assert len(names) == 1 and "other" in names[0]
    finally:
        await following.close()
    for one in (order, mine):
        await runtime.detach(one)
