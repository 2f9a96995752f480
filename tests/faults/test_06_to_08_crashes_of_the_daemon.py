"""Faults 6 to 8, and a reboot: the daemon is killed at any moment, and the next one goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest
from tests.faults.containers import own_everywhere
from tests.faults.house import Begun, House, dead, make, serve, wait_for

from qwend.adapters.state_schema import close_database, open_database
from qwend.errors import QwendError

pytestmark = pytest.mark.native


@own_everywhere
def test_06_services_go_on_and_are_adopted_and_a_job_half_way_ends_once(own: House) -> None:
    steps = {"one": serve(), "two": serve(), "count": make(seconds=2, resumable=True)}
    going = own.begin("r", steps)
    before = {name: own.until(f"r/{name}", "ready") for name in ("one", "two")}
    own.until("r/count", "running", where=lambda row: row["pid"])
    own.kill()
    for row in before.values():
        with urllib.request.urlopen(f"{row['url']}/health", timeout=30) as answer:
            assert answer.status == 200, "it serves while nobody looks after it"
    with pytest.raises(Exception, match="daemon"):
        going.result()
    own.start()
    for name, row in before.items():
        after = own.until(f"r/{name}", "ready")
        assert (after["pid"], after["generation"], after["port"]) == (row["pid"], 1, row["port"])
    done = own.until("r/count", "succeeded")
    assert done["generation"] == 1, "it was not run again"
    assert own.kinds("r/count").count("job.succeeded") == 1
    assert own.up("r", steps)["exit_code"] == 0
    assert [own.row(f"r/{name}")["generation"] for name in ("one", "two", "count")] == [1, 1, 1]


@own_everywhere
def test_06_what_died_meanwhile_is_started_again_once_on_its_own_port(own: House) -> None:
    own.up("r", {"one": serve(), "two": serve()})
    before = own.row("r/one")
    own.kill()
    os.kill(before["pid"], signal.SIGKILL)
    wait_for(lambda: dead(before["pid"]), "it is dead")
    own.start()
    after = own.until("r/one", "ready", where=lambda row: row["pid"] != before["pid"])
    assert (after["generation"], after["port"]) == (2, before["port"])
    assert own.row("r/two")["generation"] == 1


@own_everywhere
def test_06_a_job_that_ended_meanwhile_is_taken_into_the_store_and_not_run_again(own: House) -> None:
    own.begin("r", {"write": make(text="kept", seconds=0.5)})
    pid = own.until("r/write", "running", where=lambda row: row["pid"])["pid"]
    own.kill()
    wait_for(lambda: dead(pid), "it has ended")
    own.start()
    row = own.until("r/write", "succeeded")
    assert row["generation"] == 1 and row["artifact"]


@own_everywhere
def test_06_a_stop_that_was_cut_off_is_finished(own: House) -> None:
    own.up("r", {"chat": serve(ignore_sigterm=True, stop_grace="3s")})
    pid = own.row("r/chat")["pid"]
    stopping = Begun(lambda: own.down("r"))
    own.until("r/chat", "stopping", "stopped")
    # A stop waits for no disk: one that is on its way to the disk when the daemon dies is as if it had not been asked.
    wait_for(lambda: "service.stopping" in own.kinds("r/chat"), "the stop is written down")
    own.kill()
    with contextlib.suppress(QwendError):  # it is cut off, or was faster
        stopping.result()
    own.start()
    row = own.until("r/chat", "stopped")
    assert (row["generation"], row["exit"]["killed"]) == (1, True), "the next daemon kept to the grace"
    assert dead(pid)


def test_06_a_crash_loop_goes_on_counting_over_a_crash_of_the_daemon(own: House) -> None:
    own.begin("r", {"chat": serve(die_after=0.2, restart={"max": 3, "backoff": "0.5s"})})
    own.until("r/chat", "backoff")
    own.kill()
    own.start()
    reason = own.until("r/chat", "failed")["reason"]
    assert "gave up after 3 restarts" in reason
    assert own.row("r/chat")["generation"] == 4, "one start and three more, whoever counted"


def test_06_a_service_that_hangs_while_no_daemon_watches_is_found_out(own: House) -> None:
    own.up("r", {"chat": serve(hang_after=1.0, patience=0.3, restart="no")})
    url = own.row("r/chat")["url"]
    own.kill()
    wait_for(lambda: _hangs(f"{url}/work"), "it hangs")
    own.start()
    assert "/work did not answer" in own.until("r/chat", "failed")["reason"]


def _hangs(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, data=b"{}", timeout=0.5):
            return False
    except TimeoutError:
        return True


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_07_a_pid_that_was_given_to_a_stranger_is_never_signalled(
    own: House, stranger: subprocess.Popen[bytes]
) -> None:
    """Pids cannot be made to come round here at will, so the row is made to name a stranger's."""
    own.up("r", {"chat": serve()})
    pid = own.row("r/chat")["pid"]
    own.kill()
    os.kill(pid, signal.SIGKILL)
    database = open_database(str(own.home / "state.db"))
    (body,) = database.execute("SELECT body FROM rows WHERE name = 'step' AND subject = 'r/chat'").fetchone()
    row = msgspec.json.decode(body)
    row["handle"] |= {"pid": stranger.pid, "id": str(stranger.pid)}
    database.execute(
        "UPDATE rows SET body = ? WHERE name = 'step' AND subject = 'r/chat'", (msgspec.json.encode(row),)
    )
    close_database(database)
    own.start()
    assert own.until("r/chat", "ready")["generation"] == 2
    own.down("r")
    assert stranger.poll() is None


@own_everywhere
def test_08_a_daemon_that_dies_at_any_moment_of_many_starts_leaves_no_orphan(own: House) -> None:
    count, moments = (8, (1, 4, 8)) if own.runtime == "native" else (4, (1, 3))
    steps = {f"s{n}": serve() for n in range(count)}
    for moment in moments:
        own.begin("r", steps)
        wait_for(partial(_begun, own, moment), "so many start")
        own.kill()
        own.start()
        for name in steps:
            own.until(f"r/{name}", "ready")
        wait_for(lambda: len(own.processes()) == len(steps), "each runs once")
        living = own.processes()
        assert sorted(living) == sorted(row["pid"] for row in own.rows("r"))
        own.down("r")
        assert not own.processes()


def _begun(own: House, count: int) -> bool:
    return sum(row["state"] in {"starting", "ready"} for row in own.rows("r")) >= count


def test_19_when_the_supervisor_dies_services_start_again_once_and_a_job_runs_again(own: House) -> None:
    own.begin("r", {"chat": serve(), "count": make(seconds=1.5)})
    chat = own.until("r/chat", "ready")
    count = own.until("r/count", "running", where=lambda row: row["pid"])
    os.kill(own.supervisor(), signal.SIGKILL)
    after = own.until("r/chat", "ready", where=lambda row: row["pid"] != chat["pid"])
    assert (after["generation"], after["port"]) == (2, chat["port"])
    done = own.until("r/count", "succeeded")
    assert done["generation"] == 2
    assert dead(chat["pid"]) and dead(count["pid"])
    reasons = [event.get("reason", "") for event in own.events("r")]
    assert any("ended while nobody watched" in (reason or "") for reason in reasons)
    assert any("running again" in (reason or "") for reason in reasons)
