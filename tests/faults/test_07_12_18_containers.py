"""Faults 7, 12 and 18 where steps run in containers: strangers' containers, memory limits, an engine that goes away."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator

import msgspec
import pytest
from tests.faults.containers import DockerHouse
from tests.faults.house import a_house, dead, make, serve, wait_for

from qwend.adapters.state_schema import close_database, open_database

pytestmark = pytest.mark.docker


@pytest.fixture
def own() -> Iterator[DockerHouse]:
    with a_house(DockerHouse) as house:
        assert isinstance(house, DockerHouse)
        yield house


def test_07_a_container_of_a_stranger_is_never_ended_though_a_row_names_it(own: DockerHouse) -> None:
    own.up("r", {"chat": serve()})
    (mine,) = own.containers()
    stranger = _docker("run", "-d", "--entrypoint", "sleep", mine["Image"], "1000")
    try:
        own.kill()
        _docker("rm", "-f", mine["Id"])
        database = open_database(str(own.home / "state.db"))
        where = "WHERE name = 'step' AND subject = 'r/chat'"
        (body,) = database.execute(f"SELECT body FROM rows {where}").fetchone()
        row = msgspec.json.decode(body)
        row["handle"] |= {"id": stranger}
        database.execute(f"UPDATE rows SET body = ? {where}", (msgspec.json.encode(row),))
        close_database(database)
        own.door.shut()  # so that the daemon has nothing but the row to go by
        own.start()
        assert own.down("r")["exit_code"] == 3, "it may still run"
        own.door.open()
        own.until("r/chat", "stopped")
        assert _docker("inspect", "--format", "{{.State.Running}}", stranger) == "true"
    finally:
        _docker("rm", "-f", stranger)


def test_12_a_service_that_meets_its_memory_limit_says_so_and_stays_down(own: DockerHouse) -> None:
    steps = {"chat": serve(eat_after=1.0, memory="64MiB", restart={"backoff": "20ms"})}
    own.begin("r", steps)
    row = own.until("r/chat", "failed")
    assert "killed for memory at a peak of" in row["reason"] and "the same wall" in row["reason"]
    assert row["generation"] == 1
    end = own.up("r", {"write": make(eat=256 << 20, memory="64MiB")})
    assert (end["exit_code"], end["error"]["code"]) == (5, "out-of-memory")


def test_18_services_live_through_an_engine_that_is_gone_and_are_not_started_twice(own: DockerHouse) -> None:
    steps = {"chat": serve(), "count": make(seconds=2.0)}
    going = own.begin("r", steps)
    before = own.until("r/chat", "ready")
    own.until("r/count", "running", where=lambda row: row["pid"])
    containers = {one["Id"] for one in own.containers()}
    own.door.shut()
    said = own.cli("doctor").stdout
    assert "Docker Engine" in said, said
    with urllib.request.urlopen(f"{before['url']}/health", timeout=30) as answer:
        assert answer.status == 200
    count = next(pid for pid, marker in own.processes().items() if "r/count" in marker)
    wait_for(lambda: dead(count), "the job ends while nobody can see it")
    assert own.row("r/count")["state"] == "running"
    own.door.open()
    assert own.until("r/count", "succeeded")["generation"] == 1
    assert going.result()[-1]["end"]["exit_code"] == 0
    after = own.until("r/chat", "ready")
    assert (after["generation"], after["port"], after["pid"]) == (1, before["port"], before["pid"])
    assert {one["Id"] for one in own.containers()} <= containers, "no container was made a second time"


def test_18_what_died_while_the_engine_was_gone_is_started_once_when_it_is_back(own: DockerHouse) -> None:
    own.up("r", {"chat": serve(restart={"backoff": "50ms"})})
    own.door.shut()
    _docker("kill", own.containers()[0]["Id"])
    own.door.open()
    own.until("r/chat", "ready", where=lambda row: row["generation"] == 2)
    assert len(own.processes()) == 1


def test_18_a_start_while_the_engine_is_gone_says_so_and_leaves_nothing_behind(own: DockerHouse) -> None:
    own.up("r", {"chat": serve()})
    own.door.shut()
    ended = own.cli("up", "-d", str(_written(own)))
    assert ended.returncode == 3
    assert "steps.write.runtime: the runtime docker does not answer here" in ended.stderr
    assert "Traceback" not in ended.stderr
    own.door.open()
    assert own.up("r", {"chat": serve()})["exit_code"] == 0
    assert own.row("r/chat")["generation"] == 1
    assert len(own.processes()) == 1


def test_18_down_while_the_engine_is_gone_says_what_may_still_run_and_ends_it_afterwards(
    own: DockerHouse,
) -> None:
    own.up("r", {"chat": serve()})
    own.door.shut()
    ended = own.down("r")
    assert ended["exit_code"] == 3
    assert ended["error"]["message"].startswith("r/chat may still run: down; Docker Engine does not answer")
    assert len(own.processes()) == 1
    own.door.open()
    row = own.until("r/chat", "stopped")
    assert row["reason"] == "down"
    assert own.processes() == {}


def test_18_a_daemon_that_starts_before_its_engine_adopts_when_it_is_there(own: DockerHouse) -> None:
    own.up("r", {"chat": serve()})
    before = own.row("r/chat")
    own.kill()
    own.door.shut()
    own.start()
    assert own.row("r/chat")["state"] == "ready", "what may live is not called dead"
    own.door.open()
    stopping = own.until("r/chat", "ready", where=lambda row: row["pid"] == before["pid"])
    assert (stopping["generation"], stopping["port"]) == (1, before["port"])
    wait_for(lambda: "'adopted': 1" in own.log(), "it is adopted")
    assert own.act("r/chat", "restart")["state"] == "ready", "it obeys"
    assert own.row("r/chat")["generation"] == 2 and len(own.processes()) == 1


def _written(own: DockerHouse) -> str:
    path = own.folder / "other.yaml"
    path.write_text("name: other\nsteps:\n  write: {uses: toy/make, runtime: docker}\n")
    return str(path)


def _docker(*arguments: str) -> str:
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=120)
    return ended.stdout.strip()
