"""recipes/gguf.yaml end to end on the smoke model: made, converted, quantised, served, changed, crashed, stopped.

One story, since each chapter needs what the one before it made; llama.cpp is compiled once for all of them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend

pytestmark = [pytest.mark.e2e, pytest.mark.native]

GGUF = str(ROOT / "recipes" / "gguf.yaml")


def ask(url: str, tokens: int = 4) -> dict[str, Any]:
    """One answer of a served model through its OpenAI API."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "你好"}], "max_tokens": tokens}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def actions(qwend: Qwend, *arguments: str) -> dict[str, tuple[str, str]]:
    """What a plan would do: step → (verb, why)."""
    plan = qwend.json("plan", "--smoke", GGUF, *arguments)
    return {action["step"]: (action["verb"], action["why"]) for action in plan["plan"]["actions"]}


def test_the_chain_serves_and_changes_and_survives_and_stops(qwend: Qwend) -> None:
    said = qwend("up", "-d", "--smoke", GGUF)
    assert "curl -s http://127.0.0.1:" in said
    row = qwend.row("chat")
    assert row["state"] == "ready"
    answer = ask(row["url"])
    assert answer["model"] == "chat"
    assert answer["usage"]["completion_tokens"] > 0

    # A second up changes nothing, and says so.
    assert "nothing to do" in qwend("up", "--smoke", GGUF)
    assert qwend.row("chat")["generation"] == row["generation"]

    # The same by hand: the script of the plan runs as it is, and makes the very same file.
    (qwend.folder / "by-hand").mkdir()
    script = qwend("plan", "--smoke", "--shell", GGUF, "--force", "f16", "--force", "q4", "q4")
    by_hand = subprocess.run(
        ["sh"],
        input=script,
        cwd=qwend.folder / "by-hand",
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert by_hand.returncode == 0, by_hand.stderr
    (quantised,) = (qwend.folder / "by-hand" / "q4").glob("*.gguf")
    stored = Path(qwend.json("inspect", "gguf/q4")["artifact"]["location"]) / quantised.name
    assert quantised.read_bytes() == stored.read_bytes()

    # Another type rebuilds the quantised file and replaces the service, and nothing else; the plan says why.
    changed = "steps.q4.with.type=Q5_K_M"
    planned = actions(qwend, "--set", changed)
    assert planned["q4"] == ("run", "with.type Q4_K_M → Q5_K_M")
    assert planned["chat"][0] == "replace"
    assert {verb for step, (verb, _) in planned.items() if step not in {"q4", "chat"}} == {"keep"}
    qwend("up", "-d", "--smoke", GGUF, "--set", changed)
    again = qwend.row("chat")
    # Without a gap: the new one was ready on a port of its own before the old one ended.
    assert (again["state"], again["generation"]) == ("ready", row["generation"] + 1)
    assert ask(again["url"])["model"] == "chat"
    assert qwend.row("f16")["state"] == "cached"

    # Back to the first type: its file is still in the store.
    assert actions(qwend)["q4"][0] == "keep"

    # kill -9 of the daemon: the service goes on, and the next daemon adopts it.
    pid = qwend.json("daemon", "status")["pid"]
    os.kill(pid, signal.SIGKILL)
    assert ask(again["url"])["usage"]["completion_tokens"] > 0
    adopted = qwend.row("chat")
    assert (adopted["state"], adopted["pid"]) == ("ready", again["pid"])
    assert qwend.json("daemon", "status")["pid"] != pid

    qwend("down", "-p", "gguf")
    assert qwend.row("chat")["state"] == "stopped"
    assert not Path(f"/proc/{again['pid']}").exists()


def test_a_job_that_was_cut_off_by_a_dead_daemon_ends_once(qwend: Qwend) -> None:
    client = qwend.start("up", "-d", "--smoke", GGUF)
    try:
        while not any(row["state"] == "running" for row in rows(qwend)):
            assert client.poll() is None, client.communicate()
            time.sleep(0.05)
        os.kill(qwend.json("daemon", "status")["pid"], signal.SIGKILL)
    finally:
        client.wait(timeout=60)
        client.communicate()
    qwend("up", "-d", "--smoke", GGUF)
    assert qwend.row("chat")["state"] == "ready"
    events = [json.loads(line) for line in qwend("events", "--json").splitlines()]
    for step in ("base", "f16", "q4"):
        ends = [
            event
            for event in events
            if event["kind"] == "job.succeeded" and event["subject"] == f"gguf/{step}"
        ]
        assert len(ends) == 1, step


def test_wrong_keys_are_told_all_at_once_with_their_places(qwend: Qwend, tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(
        "name: bad\nmodels: {base: smoke:qwen2}\nsteps:\n"
        "  q4: {uses: llama-cpp/quantise, from: base}\n"
        "  q5:\n    uses: llama-cpp/quantize\n    from: bsae\n    with: {type: Q4_K_N}\n"
    )
    ended = qwend.try_("up", str(recipe))
    assert ended.returncode == 2
    lines = [line for line in ended.stderr.splitlines() if "bad.yaml:" in line]
    assert [line.split("bad.yaml:")[1].split(" ")[0] for line in lines] == ["4:14:", "7:11:", "8:18:"]
    assert "did you mean llama-cpp/quantize?" in lines[0]
    assert "did you mean base?" in lines[1]
    assert "Q4_K_M" in lines[2]
    assert "Traceback" not in ended.stderr


def test_a_fixed_port_that_is_taken_names_its_holder(qwend: Qwend) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        quickstart = str(ROOT / "recipes" / "quickstart.yaml")
        ended = qwend.try_("up", "-d", "--smoke", quickstart, "--set", f"steps.chat.port={port}")
    assert ended.returncode == 5
    assert str(port) in ended.stderr
    assert str(os.getpid()) in ended.stderr


def rows(qwend: Qwend) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = qwend.json("ps")
    return found
