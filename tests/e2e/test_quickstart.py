"""The README's first command on a machine where no hub answers: served, asked, killed, adopted, stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT, Qwend

pytestmark = [pytest.mark.e2e, pytest.mark.native]
QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")
NO_HUB = "http://127.0.0.1:9"
"""The discard port: nobody listens, so that it is refused at once."""


@pytest.fixture
def offline(qwend: Qwend, tmp_path: Path) -> Qwend:
    """A command line whose daemon reaches no hub, and whose user has no hub cache."""
    qwend.environ |= {
        "HF_ENDPOINT": NO_HUB,
        "MODELSCOPE_ENDPOINT": NO_HUB,
        "MODELSCOPE_DOMAIN": "127.0.0.1:9",
    }
    qwend.environ |= {"HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_CACHE": str(tmp_path / "ms")}
    return qwend


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _token(url: str) -> str:
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def test_quickstart_serves_a_stand_in_loudly_and_its_curl_line_works_as_pasted(offline: Qwend) -> None:
    ended = offline.try_("up", "-d", QUICKSTART)
    assert ended.returncode == 0, ended.stderr
    *table, notice, curl = ended.stdout.splitlines()
    assert "no hub reachable" in notice and "it talks nonsense" in notice
    assert table[0].split() == ["STEP", "STATE", "TIME", "SIZE", "URL"]
    answer = subprocess.run(["sh", "-c", curl], capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(answer.stdout)["choices"][0]["message"]["role"] == "assistant"

    again = offline.try_("up", QUICKSTART)
    url = offline.row("chat")["url"]
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == f"quickstart: nothing to do; chat at {url}\n{notice}\n"

    assert "nothing was running" not in offline("down", QUICKSTART)
    assert offline.row("chat")["state"] == "stopped"


def test_services_outlive_a_daemon_that_is_killed_and_are_adopted(offline: Qwend) -> None:
    offline("up", "-d", QUICKSTART)
    before = offline.row("chat")
    daemon = offline.json("daemon", "status")["pid"]
    os.kill(daemon, signal.SIGKILL)
    _token(before["url"])
    after = offline.row("chat")
    assert offline.json("daemon", "status")["pid"] != daemon
    same = ("pid", "port", "url", "generation", "state")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    offline("down", QUICKSTART)
    assert not _alive(before["pid"])


def test_an_interrupt_of_a_foreground_up_stops_what_it_started(offline: Qwend) -> None:
    up = offline.start("up", QUICKSTART)
    assert up.stderr is not None
    for line in up.stderr:
        if line.startswith("Ctrl-C stops it"):
            break
    pid = offline.row("chat")["pid"]
    up.send_signal(signal.SIGINT)
    _, err = up.communicate(timeout=120)
    assert up.returncode == 130, err
    assert not _alive(pid)
    assert offline.row("chat")["state"] == "stopped"


def test_the_daemon_keeps_pydantic_and_plugins_out_of_its_process(offline: Qwend) -> None:
    offline("plan", QUICKSTART)
    pid = offline.json("daemon", "status")["pid"]
    maps = Path(f"/proc/{pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert "pydantic_core" not in maps.read_text()
