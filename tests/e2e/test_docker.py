"""The same recipes in containers: hardened, adopted after a crash, built once, refused where tampered with."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, TIMEOUT_S, Docker, Qwend

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

QUICKSTART = str(ROOT / "recipes" / "quickstart.yaml")
GGUF = str(ROOT / "recipes" / "gguf.yaml")

INSIDE = """
for status in /proc/[0-9]*/status; do
    grep -hE '^(Uid|CapEff|CapPrm|CapBnd|CapAmb|NoNewPrivs|Seccomp):' $status || true
done | tr -s '\\t ' ' ' | sort -u
for path in / /etc /usr /opt/qwend /in/* /opt/drivers /var /run; do
    if touch "$path/probe" 2>/dev/null; then echo "writable: $path"; fi
done
ls /var/run/docker.sock /run/docker.sock 2>/dev/null || true
"""


def ask(url: str) -> int:
    """How many tokens a served model answers."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return int(json.load(answer)["usage"]["completion_tokens"])


def daemon_pid(qwend: Qwend) -> int:
    return int(qwend.json("daemon", "status")["pid"])


def test_the_quickstart_runs_in_a_container_that_can_do_nothing_else_and_outlives_the_daemon(
    qwend: Qwend, docker: Docker
) -> None:
    said = qwend("up", "-d", "--smoke", "--runtime", "docker", QUICKSTART)
    assert "curl -s http://127.0.0.1:" in said
    row = qwend.row("chat")
    assert (row["state"], row["runtime"]) == ("ready", "docker")
    assert ask(row["url"]) > 0

    # What its processes may do, seen from inside.
    [container] = docker.containers("chat")
    seen = docker.inside(container["Id"], INSIDE).splitlines()
    facts: dict[str, set[str]] = {}
    for line in seen:
        name, _, value = line.partition(": ")
        facts.setdefault(name, set()).add(value)
    assert {int(value, 16) for name in facts if name.startswith("Cap") for value in facts[name]} == {0}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ({"1"}, {"2"})
    assert {uid for uids in facts["Uid"] for uid in uids.split()} == {str(os.getuid() or 10001)}
    assert facts.keys() == {"CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid"}, seen

    # How the engine holds it: on the host's loopback only, watched by nobody but the daemon.
    host = container["HostConfig"]
    [[binding]] = container["NetworkSettings"]["Ports"].values()
    assert (binding["HostIp"], binding["HostPort"]) == ("127.0.0.1", str(row["port"]))
    assert (host["ReadonlyRootfs"], host["Privileged"], host["RestartPolicy"]["Name"]) == (True, False, "no")
    assert not [
        mount for mount in container["Mounts"] if mount["Destination"].startswith("/in") and mount["RW"]
    ]

    assert "nothing to do" in qwend("up", "--smoke", "--runtime", "docker", QUICKSTART)

    # kill -9 of the daemon: the container goes on, and the next daemon adopts it.
    pid = daemon_pid(qwend)
    os.kill(pid, signal.SIGKILL)
    assert ask(row["url"]) > 0
    adopted = qwend.row("chat")
    assert (adopted["state"], adopted["port"], adopted["generation"]) == (
        "ready",
        row["port"],
        row["generation"],
    )
    assert daemon_pid(qwend) != pid
    assert [one["Id"] for one in docker.containers("chat")] == [container["Id"]]

    # Killed by a stranger it comes back, under the same port.
    docker("kill", container["Id"])
    until(
        lambda: qwend.row("chat")["generation"] > row["generation"] and qwend.row("chat")["state"] == "ready"
    )
    assert qwend.row("chat")["url"] == row["url"]
    assert ask(row["url"]) > 0

    qwend("down", "-p", "quickstart")
    until(lambda: docker.containers() == [])


def test_the_chain_in_containers_makes_what_the_native_one_would(qwend: Qwend, docker: Docker) -> None:
    qwend("up", "-d", "--smoke", "--runtime", "docker", GGUF)
    rows = {row["step"]: row for row in qwend.json("ps")}
    assert {row["runtime"] for row in rows.values()} == {"docker"}
    assert ask(rows["chat"]["url"]) > 0
    foreign = [path for path in (qwend.home / "store").rglob("*") if path.stat().st_uid != os.getuid()]
    assert foreign == []

    # Nothing of it is made again for the other runtime; the plan says why only the service moves.
    plan = qwend.json("plan", "--smoke", "--runtime", "native", GGUF)
    verbs = {
        action["step"]: action["verb"] for action in plan["plan"]["actions"] if action["verb"] != "build"
    }
    assert verbs == {"base": "keep", "f16": "keep", "q4": "keep", "chat": "replace"}


def test_a_job_whose_container_ended_without_a_daemon_is_taken_up_once(qwend: Qwend, docker: Docker) -> None:
    client = qwend.start("up", "-d", "--smoke", "--runtime", "docker", GGUF)
    try:
        found: list[dict[str, Any]] = []

        def runs() -> bool:
            if (qwend.home / "instance").exists():  # which the first daemon writes
                found[:] = [one for one in docker.containers() if one["State"]["Running"]]
            return bool(found) or client.poll() is not None

        until(runs)
        assert client.poll() is None, client.communicate()
        [running] = found
        os.kill(daemon_pid(qwend), signal.SIGKILL)
        docker("wait", running["Id"])
    finally:
        client.wait(timeout=60)
        client.communicate()
    qwend("up", "-d", "--smoke", "--runtime", "docker", GGUF)
    assert qwend.row("chat")["state"] == "ready"
    events = [json.loads(line) for line in qwend("events", "--json").splitlines()]
    ends = [event["subject"] for event in events if event["kind"] == "job.succeeded"]
    assert sorted(ends) == ["gguf/base", "gguf/f16", "gguf/q4"]
    [step] = [label for name, label in running["Config"]["Labels"].items() if name == "org.qwend.step"]
    starts = [e for e in events if e["kind"] == "job.running" and e["subject"] == f"gguf/{step}"]
    assert len({event["row"]["generation"] for event in starts if event.get("row")}) <= 1


def test_a_second_build_of_an_image_touches_nothing_and_it_is_as_its_lock_says(
    qwend: Qwend, docker: Docker
) -> None:
    first = qwend.json("images", "build", "smoke", "--runtime", "docker")["built"][0]
    image = docker("image", "inspect", "--format", "{{.Id}} {{.Created}}", first["location"])
    before = build_logs(qwend)
    again = qwend.json("images", "build", "smoke", "--runtime", "docker")["built"][0]
    assert (again["location"], again["seconds"]) == (first["location"], 0.0)
    assert docker("image", "inspect", "--format", "{{.Id}} {{.Created}}", first["location"]) == image
    assert build_logs(qwend) == before

    assert ("smoke", "oci", "ready") in {
        (row["name"], row["kind"], row["state"]) for row in qwend.json("images", "ls")
    }
    checked = qwend.json("images", "verify", "smoke")
    assert checked["checked"] >= 1
    assert [one for one in checked["differences"] if one["kind"] == "oci"] == []
    going = qwend.json("images", "prune", "--dry-run")["removed"]
    assert first["key"] in {one["key"] for one in going if one["kind"] == "oci"}


def test_a_lock_that_was_tampered_with_is_refused(qwend: Qwend, docker: Docker, tmp_path: Path) -> None:
    qwend("images", "build", "smoke", "--runtime", "docker")
    shutil.copytree(ROOT / "images", tmp_path / "images")
    rooms = [str(ROOT / "daemon"), str(ROOT / "plugins"), str(tmp_path / "images")]
    qwend.environ["PYTHONPATH"] = os.pathsep.join(rooms)
    lock = tmp_path / "images" / "qwend_images" / "smoke" / "cpu.lock"
    lock.write_text(forged(lock.read_text(), "safetensors"))
    qwend("daemon", "stop")

    # What was built from the true lock is not taken for what the false one says …
    [said] = [one for one in verified(qwend)["differences"] if one["kind"] == "oci"]
    assert "its folder changed since" in said["difference"]
    # … and nothing is built from the false one.
    ended = qwend.try_("images", "build", "smoke", "--runtime", "docker")
    assert ended.returncode == 1, ended.stderr
    assert "safetensors" in ended.stderr and "is not what the lock says" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_image_of_llama_cpp_adds_at_most_150_mb_to_its_base(qwend: Qwend, docker: Docker) -> None:
    """What a registry would be sent of it, besides its base."""
    [built] = qwend.json("images", "build", "llama-cpp", "--flavour", "cpu", "--runtime", "docker")["built"]
    label = '{{index .Config.Labels "org.opencontainers.image.base.name"}}'
    base = docker("image", "inspect", "--format", label, built["location"])
    added = compressed(built["location"]) - compressed(base)
    assert 10e6 < added <= 150e6


def compressed(image: str) -> int:
    """Bytes of an image as it travels: gzip at its quickest, so an upper bound."""
    packed, total = zlib.compressobj(1, wbits=31), 0
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        while block := saving.stdout.read(1 << 20):
            total += len(packed.compress(block))
    assert saving.returncode == 0
    return total + len(packed.flush())


def build_logs(qwend: Qwend) -> dict[str, int]:
    """When each build last wrote its log; none where the images came with the engine."""
    return {path.name: path.stat().st_mtime_ns for path in (qwend.home / "images").glob(".oci/logs/*")}


def verified(qwend: Qwend) -> dict[str, Any]:
    ended = qwend.try_("images", "verify", "smoke", "--json")
    assert ended.returncode == 1, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def forged(lock: str, package: str) -> str:
    """The lock with every hash of one package another one."""
    start = lock.index(f"\n{package}==") + 1
    end = re.compile(r"\n(?=\S)").search(lock, start)
    assert end is not None
    pin = re.sub(r"sha256:[0-9a-f]{4}", "sha256:0000", lock[start : end.start()])
    return lock[:start] + pin + lock[end.start() :]


def until(there: Callable[[], bool]) -> None:
    """Waits for what happens in its own time."""
    deadline = time.monotonic() + TIMEOUT_S
    while not there():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)
