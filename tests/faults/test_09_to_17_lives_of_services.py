"""Faults 9 to 17 as a user meets them: crash loops, failing starts, hangs, slow loads, two `up` at once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tests.faults.containers import everywhere
from tests.faults.house import House, make, serve, wait_for

from qwend.adapters.state_schema import close_database, open_database

pytestmark = pytest.mark.native


@everywhere
def test_09_a_crash_loop_ends_failed_with_the_last_words_of_the_log(house: House, name: str) -> None:
    restart = {"max": 2, "backoff": "50ms"}
    house.up(name, {"chat": serve(die_after=0.3, last="error: the tensor is lost", restart=restart)})
    row = house.until(f"{name}/chat", "failed")
    assert row["reason"] == "exit code 1: error: the tensor is lost; gave up after 2 restarts"
    assert row["generation"] == 3
    assert house.kinds(f"{name}/chat").count("service.backoff") == 2
    assert "the tensor is lost" in house.cli("ps", "-p", name).stdout
    assert house.cli("logs", "-p", name, "chat").stdout.count("the tensor is lost") == 3


def test_10_enough_health_begins_the_count_anew(house: House, name: str) -> None:
    restart = {"max": 1, "backoff": "20ms", "reset": "0.2s"}
    house.up(name, {"chat": serve(die_after=1.0, restart=restart)})
    row = house.until(f"{name}/chat", "ready", where=lambda row: row["generation"] >= 4)
    assert row["state"] == "ready", "three deaths, with a limit of one in a row"


def test_12_a_service_that_was_killed_for_memory_says_so_and_stays_down(house: House, name: str) -> None:
    """A real kill by the kernel's memory controller, where this user may make a group of it."""
    with _a_small_group() as group:
        house.up(name, {"chat": serve(eat_after=1.0, restart={"backoff": "20ms"})})
        pid = house.row(f"{name}/chat")["pid"]
        (group / "cgroup.procs").write_text(str(pid))
        row = house.until(f"{name}/chat", "failed")
    assert "killed for memory at a peak of" in row["reason"]
    assert "the same wall" in row["reason"]
    assert row["generation"] == 1


@everywhere
def test_12_the_memory_of_a_card_is_named_and_not_tried_again(house: House, name: str) -> None:
    words = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    house.up(name, {"chat": serve(die_after=0.3, last=words, restart={"backoff": "20ms"})})
    row = house.until(f"{name}/chat", "failed")
    assert row["reason"].startswith(f"exit code 1: the memory of the card is too small: {words}")
    assert row["generation"] == 1
    end = house.up(name, {"chat": serve(fail=words)})
    assert end["exit_code"] == 5, "out of a resource"


@everywhere
def test_13_an_engine_that_fails_while_loading_fails_at_once_with_its_own_words(
    house: House, name: str
) -> None:
    begun = time.monotonic()
    end = house.up(name, {"chat": serve(fail="error: unknown flag --contxt", health={"deadline": "1h"})})
    assert end["exit_code"] == 1
    assert end["error"]["message"] == "chat: exit code 1: error: unknown flag --contxt"
    assert time.monotonic() - begun < 60, "long before its deadline"
    assert house.row(f"{name}/chat")["generation"] == 1, "a wrong flag is not mended by trying again"


@everywhere
def test_13_the_words_of_an_earlier_start_are_not_taken_for_those_of_this_one(
    house: House, name: str
) -> None:
    house.up(name, {"chat": serve(fail="error: Address already in use")})
    end = house.up(name, {"chat": serve(fail="oh no")})
    assert end["error"]["message"] == "chat: exit code 1: oh no"


@everywhere
def test_14_a_server_that_hangs_behind_a_smiling_health_page_is_found_out(house: House, name: str) -> None:
    restart = {"max": 5, "backoff": "20ms"}
    house.up(name, {"chat": serve(hang_after=1.5, patience=0.3, restart=restart)})
    house.until(f"{name}/chat", "ready", where=lambda row: row["generation"] == 2)
    kinds = house.kinds(f"{name}/chat")
    assert kinds.index("service.unhealthy") < kinds.index("service.stopping") < kinds.index("service.backoff")
    reasons = [event.get("reason") or "" for event in house.events(name)]
    assert any("/work did not answer within 0.3 s" in reason for reason in reasons)


@everywhere
def test_14_a_server_that_never_does_real_work_is_never_ready(house: House, name: str) -> None:
    end = house.up(name, {"chat": serve(hang_work=True, patience=0.2, health={"deadline": "1.5s"})})
    assert end["error"]["message"].startswith("chat: not ready after 2 s")
    assert "service.ready" not in house.kinds(f"{name}/chat")


@everywhere
def test_15_a_slow_load_is_starting_and_shows_how_far_it_is(house: House, name: str) -> None:
    going = house.begin(name, {"chat": serve(load=1.5)})
    row = house.until(f"{name}/chat", "starting", where=lambda row: row["pid"])
    assert row["health"] == "starting"
    items = going.result()
    told = [item["progress"] for item in items if item.get("progress", {}).get("phase") == "load"]
    assert told and 0 < told[0]["done"] <= told[0]["total"]
    assert items[-1]["end"]["exit_code"] == 0
    assert house.kinds(f"{name}/chat")[-1] == "service.ready"


def test_15_the_deadline_grows_with_the_size_of_the_weights(house: House, name: str) -> None:
    for size, least in ((1, 20.0), (64 << 20, 20.5)):
        path = house.folder / f"{name}-{size}.txt"
        with path.open("wb") as file:
            file.truncate(size)
        steps = {"chat": {"uses": "toy/serve-data", "from": "text"}}
        going = house.begin(name, steps, datasets={"text": f"file:{path}"})
        going.result()
        deadline = _deadline(house, f"{name}/chat")
        assert deadline >= least, f"{size} bytes: {deadline}"
        house.down(name)


def _deadline(house: House, key: str) -> float:
    """The bound that the compiled step has; only the state database tells it."""
    database = open_database(str(house.home / "state.db"))
    recipe, _, name = key.partition("/")
    query = "SELECT body FROM rows WHERE name = 'recipe' AND subject = ?"
    (body,) = database.execute(query, (recipe,)).fetchone()
    close_database(database)
    step = next(one for one in msgspec.json.decode(body)["compiled"]["steps"] if one["name"] == name)
    return float(step["policy"]["deadline_s"])


def test_16_two_ups_at_once_are_one_run_and_both_see_its_end(house: House, name: str) -> None:
    steps = {"write": make(seconds=0.7, text=name), "chat": serve(needs=["write"])}
    both = [house.begin(name, steps) for _ in range(2)]
    ends = [one.result() for one in both]
    runs = {item["run"] for items in ends for item in items if item.get("run")}
    assert len(runs) == 1
    assert sorted(item["attached"] for items in ends for item in items if "attached" in item) == [False, True]
    assert [items[-1]["end"]["exit_code"] for items in ends] == [0, 0]
    assert [house.row(f"{name}/{step}")["generation"] for step in steps] == [1, 1]


def test_16_an_up_that_was_planned_before_the_other_ended_starts_nothing_anew(
    house: House, name: str
) -> None:
    """Many at once: some plan while nothing runs yet and come to act when all is done."""
    steps = {"chat": serve()}
    many = [house.begin(name, steps) for _ in range(6)]
    assert [one.result()[-1]["end"]["exit_code"] for one in many] == [0] * 6
    assert house.row(f"{name}/chat")["generation"] == 1


@everywhere
def test_17_down_while_starting_ends_stopped_and_nothing_comes_back(house: House, name: str) -> None:
    going = house.begin(name, {"chat": serve(slow=60), "late": serve(needs=["chat"])})
    house.until(f"{name}/chat", "starting", where=lambda row: row["pid"])
    assert house.down(name)["stopped"] == [f"{name}/chat"]
    assert going.result()[-1]["end"]["exit_code"] == 130
    assert house.row(f"{name}/chat")["state"] == "stopped"
    assert house.row(f"{name}/late")["state"] in {"", "stopped"}
    assert not house.processes()
    settled = house.kinds(f"{name}/chat")
    house.up(other := f"{name}b", {"chat": serve()})
    house.down(other)
    assert house.kinds(f"{name}/chat") == settled, "a whole life of another service later"


@everywhere
def test_17_down_in_backoff_ends_stopped(house: House, name: str) -> None:
    house.up(name, {"chat": serve(die_after=0.3, restart={"backoff": "1h"})})
    house.until(f"{name}/chat", "backoff")
    house.down(name)
    row = house.row(f"{name}/chat")
    assert (row["state"], row["generation"]) == ("stopped", 1)


_CONTROLLERS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


@contextmanager
def _a_small_group() -> Iterator[Path]:
    """A memory cgroup of 32 MiB (of version 1, which has controllers of its own, or of version 2)."""
    for root, limit in _CONTROLLERS:
        group = root / f"qwend-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(32 << 20))
            yield group
            return
        except FileNotFoundError:
            continue
        finally:
            wait_for(partial(_removed, group), "the group is empty")
    pytest.skip("needs a memory cgroup that this user may write")


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True
