"""Faults 1 to 4 as a user meets them: `down` ends whole trees, within the grace, and says how."""

from __future__ import annotations

import os
import signal
import time

import pytest
from tests.faults.containers import everywhere
from tests.faults.house import Begun, House, dead, serve

pytestmark = pytest.mark.native


@everywhere
def test_01_down_ends_the_grandchild_that_holds_stdout(house: House, name: str) -> None:
    assert house.up(name, {"chat": serve(fork=True, stop_grace="30s")})["exit_code"] == 0
    kin = house.kin(f"{name}/chat")
    assert len(kin) >= 2, "the engine and its child"
    begun = time.monotonic()
    ended = house.down(name)
    assert ended["killed"] == [], "all of it heeds SIGTERM"
    assert time.monotonic() - begun < 30, "nobody waits for the end of its output"
    assert all(dead(pid) for pid in kin) and not house.processes()


@everywhere
def test_01_what_a_dead_wrapper_left_behind_is_gone_before_the_step_has_failed(
    house: House, name: str
) -> None:
    end = house.up(name, {"chat": serve(fork=True, orphan=True)})
    assert (end["exit_code"], house.row(f"{name}/chat")["state"]) == (1, "failed")
    (child,) = house.said(f"{name}/chat", "child")
    assert not house.processes()
    assert house.runtime == "docker" or dead(child), "in a container it has another number"


@everywhere
def test_02_a_daemonised_child_ends_with_its_service(house: House, name: str) -> None:
    house.up(name, {"chat": serve(setsid=True, stop_grace="0.5s")})
    kin = house.kin(f"{name}/chat")
    assert len({os.getsid(pid) for pid in kin}) >= 2, "the child has a session of its own"
    killed = house.down(name)["killed"]
    # The child takes no notice of SIGTERM. A container's processes end with its first one, without a deadline.
    assert killed == ([f"{name}/chat"] if house.runtime == "native" else [])
    assert all(dead(pid) for pid in kin) and not house.processes()


@everywhere
def test_03_who_ignores_sigterm_is_recorded_as_killed(house: House, name: str) -> None:
    house.up(name, {"chat": serve(ignore_sigterm=True, stop_grace="0.5s")})
    pid = house.row(f"{name}/chat")["pid"]
    ended = house.down(name)
    assert (ended["stopped"], ended["killed"]) == ([f"{name}/chat"], [f"{name}/chat"])
    row = house.row(f"{name}/chat")
    assert dead(pid)
    assert row["reason"] == "down; killed at the deadline"
    assert row["exit"]["killed"] and row["exit"]["signal"] == signal.SIGKILL
    assert house.kinds(f"{name}/chat")[-1] == "service.killed"


@everywhere
def test_04_an_orderly_end_of_almost_the_whole_grace_is_not_cut_short(house: House, name: str) -> None:
    house.up(name, {"chat": serve(polite=2.7, stop_grace="3s")})
    assert house.down(name)["killed"] == []
    row = house.row(f"{name}/chat")
    assert (row["state"], row["exit"]["code"]) == ("stopped", 0)
    assert "ended in order" in house.text(f"{name}/chat")


@everywhere
def test_04_a_second_interrupt_kills_what_still_takes_its_time(house: House, name: str) -> None:
    steps = {"chat": serve(ignore_sigterm=True, stop_grace="1h")}
    assert house.up(name, steps, kept=False)["state"] == "done"
    recipes = house.client.get("/v1/recipes")["recipes"]
    run = next(recipe["run"] for recipe in recipes if recipe["name"] == name)
    stopping = Begun(lambda: house.client.post(f"/v1/runs/{run}/release", {}))
    house.until(f"{name}/chat", "stopping")
    assert not stopping.over
    house.client.post(f"/v1/runs/{run}/release", {"kill": True})
    assert stopping.result()["stopped"]
    assert house.row(f"{name}/chat")["reason"].endswith("killed at the deadline")
