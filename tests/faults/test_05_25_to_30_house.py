"""Faults 5 and 25 to 30 as a user meets them: many jobs, floods, kills, damage, two daemons, pruning."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.containers import DockerHouse, everywhere, own_everywhere
from tests.faults.house import House, dead, make, serve, wait_for

pytestmark = pytest.mark.native


@own_everywhere
def test_05_many_jobs_leave_no_zombie_no_descriptor_and_no_memory_behind(own: House) -> None:
    count, rounds = (50, 2) if own.runtime == "native" else (10, 5)

    def jobs(round_: int) -> None:
        steps = {f"j{n}": make(text=f"{round_} {n}") for n in range(count)}
        assert own.up("r", steps)["exit_code"] == 0

    def engine() -> int:
        """Connections to the engine. As many stay open for the next call as there were calls at once."""
        return own.door.connections if isinstance(own, DockerHouse) else 0

    def held() -> tuple[int, int]:
        status = Path(f"/proc/{own.pid}/status").read_text()
        resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return len(os.listdir(f"/proc/{own.pid}/fd")) - engine(), int(resident)

    jobs(0)
    descriptors, memory = held()
    for round_ in range(rounds):
        jobs(1 + round_)
    wait_for(lambda: held()[0] <= descriptors, "every descriptor is closed again")
    assert engine() <= 4 * count, "as many as ten jobs need at once, and not one for each of sixty"
    assert held()[1] < memory + 12 * 1024, "KiB: the rows and events of a hundred jobs, and noise"
    for pid in (own.pid, *([own.supervisor()] if own.runtime == "native" else [])):
        assert not _zombies(pid)
    assert not own.processes()
    assert not isinstance(own, DockerHouse) or own.containers() == [], "nor a container that has ended"


def _zombies(pid: int) -> list[str]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in children if dead(int(child))]


def test_05_services_that_come_and_go_leave_no_descriptor_and_no_zombie_behind(own: House) -> None:
    def come_and_go() -> None:
        steps = {f"s{n}": serve(setsid=True, stop_grace="0.2s") for n in range(4)}
        assert own.up("r", steps)["exit_code"] == 0
        assert own.down("r")["exit_code"] == 0

    def held() -> int:
        return len(os.listdir(f"/proc/{own.pid}/fd"))

    come_and_go()
    before = held()
    come_and_go()
    come_and_go()
    wait_for(lambda: held() <= before, f"no more descriptors than {before}")
    wait_for(lambda: not _zombies(own.supervisor()), "orphans that came to the supervisor are laid to rest")


@everywhere
def test_25_an_engine_that_floods_its_log_is_neither_blocked_nor_kept_whole(house: House, name: str) -> None:
    size = 48 << 20
    assert house.up(name, {"chat": serve(flood=size)})["exit_code"] == 0, "it went on to listen"
    log = Path(house.row(f"{name}/chat")["log"])
    wait_for(lambda: b"listening" in log.read_bytes()[-4096:], "its end is kept")
    wait_for(lambda: log.stat().st_size <= 16 << 20, "the log is cut")
    assert b"listening" in log.read_bytes()[-4096:]


@own_everywhere
def test_26_a_job_that_is_killed_half_way_is_never_taken_for_done(own: House) -> None:
    own.begin("r", {"write": make(seconds=3600)})
    own.until("r/write", "running", where=lambda row: row["pid"])
    own.crash()
    own.start()
    row = own.until("r/write", "running", where=lambda row: row["pid"] and row["generation"] == 2)
    assert row["artifact"] is None
    assert own.client.get("/v1/artifacts")["artifacts"] == []


@everywhere
def test_26_a_resumable_job_goes_on_where_it_was_killed(house: House, name: str) -> None:
    steps = {"count": make(seconds=1.5, resumable=True, text=name)}
    house.begin(name, steps)
    (file,) = wait_for(lambda: list(house.home.glob("store/work/*/out/steps.txt")), "it counts")
    wait_for(lambda: len(file.read_text().split()) >= 3, "it has counted to three")
    house.down(name)
    before = len(file.read_text().split())
    assert house.up(name, steps)["exit_code"] == 0
    assert house.said(f"{name}/count", "from")[-1] == before, "it went on, it did not start over"
    artifact = house.client.get(f"/v1/steps/{name}/count")["artifact"]
    counted = Path(artifact["location"], "steps.txt").read_text().split()
    assert counted == [str(n + 1) for n in range(len(counted))], "no step twice, none left out"
    assert len(counted) > before


@pytest.mark.parametrize("damage", ["flipped byte", "zero tail"])
def test_27_a_damaged_artifact_is_found_set_aside_and_made_again(
    house: House, name: str, damage: str
) -> None:
    steps = {"write": make(text=f"{name} {damage} " * 50)}
    house.up(name, steps)
    artifact = house.client.get(f"/v1/steps/{name}/write")["artifact"]
    file = Path(artifact["location"], "text.txt")
    data, before = bytearray(file.read_bytes()), file.stat()
    data[-64 if damage == "zero tail" else 7 :] = (
        bytes(64) if damage == "zero tail" else bytes([data[7] ^ 1]) + data[8:]
    )
    file.chmod(0o644)
    file.write_bytes(data)
    file.chmod(0o444)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    said = house.cli("store", "verify")
    assert said.returncode != 0
    assert "text.txt" in said.stdout + said.stderr
    assert house.up(name, steps)["exit_code"] == 0
    again = house.client.get(f"/v1/steps/{name}/write")["artifact"]
    assert again["digest"] == artifact["digest"]
    assert Path(again["location"], "text.txt").read_text().startswith(f"{name} {damage}")
    assert house.row(f"{name}/write")["generation"] == 2


def test_28_a_damaged_state_is_refused_kept_and_rebuilt_and_services_live_through_it(own: House) -> None:
    own.up("r", {"chat": serve(), "write": make(text="kept")})
    pid = own.row("r/chat")["pid"]
    digest = own.row("r/write")["artifact"]
    assert own.stop() == 0
    database = own.home / "state.db"
    whole = database.read_bytes()
    database.write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    for leftover in ("state.db-wal", "state.db-shm"):
        (own.home / leftover).unlink(missing_ok=True)
    refused = own.cli("ps")
    assert refused.returncode != 0
    assert "doctor --rebuild" in refused.stderr
    assert not dead(pid), "who only looked has ended nothing"
    rebuilt = own.cli("doctor", "--rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert [path for path in own.home.iterdir() if path.name.startswith("state.db.")], "the old one is kept"
    own.start()
    assert [one["digest"] for one in own.client.get("/v1/artifacts")["artifacts"]] == [digest]
    own.up("r", {"chat": serve(), "write": make(text="kept")})
    assert own.row("r/write")["generation"] <= 1, "the artifact was found, not made again"
    assert len(own.processes()) == 1, "no second copy of the service"


def test_28_a_newer_state_is_refused_and_untouched(own: House) -> None:
    own.stop()
    database = own.home / "state.db"
    _write_schema(database, 9999)
    before = database.read_bytes()
    refused = own.cli("ps")
    untouched = database.read_bytes() == before
    _write_schema(database, 1)
    assert untouched
    assert refused.returncode == 3
    assert "schema 9999" in refused.stderr and "run that version again" in refused.stderr


def _write_schema(database: Path, version: int) -> None:
    connection = sqlite3.connect(database)
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()


def test_29_a_second_daemon_is_refused_and_told_who_holds_the_home(house: House) -> None:
    second = subprocess.run(
        [sys.executable, "-P", "-m", "qwend.daemon"],
        env=house.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode != 0
    assert f"another daemon serves {house.home} (pid {house.pid}" in second.stderr
    assert house.client.get("/v1/version")["pid"] == house.pid


def test_29_two_clients_that_start_a_daemon_at_once_end_with_one(own: House) -> None:
    own.kill()  # its socket and its lock file stay behind
    both = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "qwend", "ps"],
            env=own.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for one in both:
        _, said = one.communicate(timeout=90)
        assert one.returncode == 0, said
    pid = own.client.get("/v1/version")["pid"]
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: dead(pid), "it has ended")


def test_30_prune_keeps_what_a_running_step_reads_and_what_a_recipe_needs(house: House, name: str) -> None:
    job = {"uses": "toy/job", "from": "data", "with": {"seconds": 1.5}}
    steps = {"data": make(text=name), "read": job}
    going = house.begin(name, steps)
    house.until(f"{name}/read", "running", where=lambda row: row["pid"])
    data = house.client.get(f"/v1/steps/{name}/data")["artifact"]
    house.client.post("/v1/store/prune", {"dry_run": False, "all": True})
    assert Path(data["location"], "text.txt").exists()
    assert going.result()[-1]["end"]["exit_code"] == 0
    house.client.post("/v1/store/prune", {"dry_run": False, "all": False})
    assert Path(data["location"], "text.txt").exists(), "the recipe's last plan refers to it"
    house.down(name)
    house.client.post("/v1/store/prune", {"dry_run": False, "all": True})
    assert not Path(data["location"]).exists(), "now nobody does"
