"""What the next daemon makes of what the last one left, and what a full disk leaves undone, in a world in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.effects import FakeStore, job, recipe, service, settle, world
from tests.unit.reconciler.test_reconciler import House

from qwend.api.control import RecipeRequest
from qwend.control.lockfile import LockFile
from qwend.control.planning import Planned
from qwend.control.running import Running
from qwend.core.planner import Snapshot, plan
from qwend.core.signals import Go, Stop
from qwend.errors import OutOfResource
from qwend.model.artifact import Artifact
from qwend.model.event import Event
from qwend.model.host import Host
from qwend.model.launch import Resources
from qwend.model.plan import Compiled, Plan, Restart
from qwend.reconciler import desk


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(world(str(tmp_path), host=Host("linux", "x86_64", 2)))
    await made.reconciler.recover()
    yield made
    await made.reconciler.close()
    await made.world.close()


class SlowStore(FakeStore):
    """A commit begins and does not end."""

    slow = True

    async def commit(self, *arguments: Any, **named: Any) -> Artifact:
        if self.slow:
            await asyncio.Event().wait()
        return await super().commit(*arguments, **named)


async def test_a_job_that_was_cut_off_while_it_was_taken_in_is_taken_in_and_not_run_again(
    house: House, tmp_path: Path
) -> None:
    house.world.store = SlowStore()
    await house.up(recipe(job("train")))
    await house.finish("train")
    assert house.row("train").exit.ok and house.state("train") == "running"
    assert not house.runtime.unacknowledged, "its end is written down, so the runtime may forget it"
    house.world.store.slow = False
    fresh = await house.crash(tmp_path)
    assert fresh.state("train") == "succeeded" and fresh.row("train").generation == 1
    assert fresh.runtime.calls == []
    await fresh.reconciler.close()
    await fresh.world.close()


async def test_an_end_is_acknowledged_only_when_it_is_written_down(house: House) -> None:
    await house.up(recipe(job("train")))
    recorded = asyncio.Event()
    real = house.world.state.record

    async def slow(*events: Any) -> Any:
        await recorded.wait()
        return await real(*events)

    house.world.state.record = slow
    await house.finish("train")
    assert house.runtime.unacknowledged
    recorded.set()
    await settle()
    assert not house.runtime.unacknowledged


async def test_a_stop_waits_for_no_disk(house: House) -> None:
    await house.ready(recipe(service("chat")))
    there_again = asyncio.Event()
    real = house.world.state.record

    async def stuck(*events: Any) -> Any:
        await there_again.wait()
        return await real(*events)

    house.world.state.record = stuck
    house.reconciler.find("r/chat").post(Stop("by hand"))
    await settle()
    assert not house.runtime.running, "it is ended while nothing can be written down"
    there_again.set()
    await settle()
    assert house.state("chat") == "stopped"
    assert house.world.state.rows("step")["r/chat"]["state"] == "stopped"


async def test_who_waits_is_given_nothing_that_an_adopted_step_holds(house: House, tmp_path: Path) -> None:
    needs = Resources(cpus=2.0)
    chat = msgspec.structs.replace(service("chat"), resources=needs)
    await house.ready(recipe(chat))
    await house.up(recipe(msgspec.structs.replace(job("train"), resources=needs), name="a"))
    assert house.state("train") == "waiting"
    fresh = await house.crash(tmp_path)
    await fresh.world.clock.advance(10.0)
    assert fresh.state("train") == "waiting" and "r/chat" in fresh.row("train").reason
    assert fresh.runtime.calls == []
    await fresh.reconciler.close()
    await fresh.world.close()


async def test_who_asks_the_next_daemon_is_not_told_of_what_died_meanwhile_that_it_is_ready(
    house: House, tmp_path: Path
) -> None:
    await house.ready(recipe(service("chat", restart=Restart(policy="always"))))
    await house.reconciler.close()
    await house.world.close()
    del house.runtime.running[house.runtime.marker("r/chat")]
    fresh = House(world(str(tmp_path), crash=house.world))
    await fresh.reconciler.recover()
    assert fresh.state("chat") == "backoff", "decided before it answers anybody"
    await fresh.reconciler.close()
    await fresh.world.close()


async def test_a_step_that_the_last_up_did_not_ask_for_lives_through_a_crash(
    house: House, tmp_path: Path
) -> None:
    both = recipe(service("chat"), service("embed"))
    await house.ready(both)
    await house.up(msgspec.structs.replace(recipe(service("chat")), left_out=("embed",)))
    fresh = await house.crash(tmp_path)
    await fresh.world.clock.advance(5.0)
    assert {row.step: row.state for row in fresh.reconciler.rows()} == {"chat": "ready", "embed": "ready"}
    assert fresh.runtime.calls == [], "neither was a stray"
    rows = await fresh.reconciler.down("r")
    assert {row.step for row in rows} == {"chat", "embed"}
    await fresh.reconciler.close()
    await fresh.world.close()


async def test_a_step_that_left_the_recipe_is_ended_and_written_off_after_a_crash(
    house: House, tmp_path: Path
) -> None:
    await house.ready(recipe(service("chat"), service("old")))
    row = {"compiled": msgspec.to_builtins(recipe(service("chat"))), "run": "run2"}
    await house.world.record(Event("recipe.planned", "r", "recipe", row))  # and here the daemon is killed
    fresh = await house.crash(tmp_path)
    assert fresh.state("old") == "stopped" and fresh.row("old").want == "down"
    assert ("stop", "r/old") in fresh.runtime.calls and len(fresh.runtime.running) == 1
    await fresh.reconciler.close()
    await fresh.world.close()


async def test_an_heir_that_never_took_over_is_gone_after_a_crash_and_the_old_one_stays(
    house: House, tmp_path: Path
) -> None:
    await house.ready(recipe(service("chat")))
    house.world.prober.sick = "loading"
    await house.up(recipe(service("chat", fingerprint="fp-2", replace="rolling")))
    await house.world.clock.advance(1.0)
    assert {row.step for row in house.reconciler.rows()} == {"chat", "chat@next"}
    assert len(house.runtime.running) == 2
    fresh = await house.crash(tmp_path)
    assert {row.step: row.state for row in fresh.reconciler.rows()} == {"chat": "ready"}
    assert fresh.row("chat").generation == 1
    assert [marker.split(":")[2] for marker in fresh.runtime.running] == ["r/chat"]
    await fresh.reconciler.close()
    await fresh.world.close()


async def test_one_that_took_over_is_adopted_by_the_name_it_was_born_with(
    house: House, tmp_path: Path
) -> None:
    await house.ready(recipe(service("chat")))
    await house.ready(recipe(service("chat", fingerprint="fp-2", replace="rolling")))
    row = house.row("chat")
    assert (row.state, row.generation, row.born, row.fingerprint) == ("ready", 2, "chat@next", "fp-2")
    assert [key for verb, key in house.runtime.calls] == ["r/chat", "r/chat@next", "r/chat"]
    fresh = await house.crash(tmp_path)
    await fresh.world.clock.advance(5.0)
    assert fresh.runtime.calls == []
    assert fresh.row("chat") == row
    await fresh.ready(recipe(service("chat", fingerprint="fp-3", replace="rolling")))
    assert fresh.row("chat").generation == 3
    fresh.runtime.end(fresh.runtime.marker("r/chat@next"), code=1)
    await settle()
    await fresh.world.clock.advance(5.0)
    assert (fresh.row("chat").generation, fresh.row("chat").born) == (4, "")
    await fresh.reconciler.close()
    await fresh.world.close()


async def test_down_in_the_middle_of_a_hand_over_leaves_neither(house: House) -> None:
    await house.ready(recipe(service("chat")))
    house.world.prober.sick = "loading"
    drive = await house.up(recipe(service("chat", fingerprint="fp-2", replace="rolling")))
    await house.world.clock.advance(1.0)
    rows = await house.reconciler.down("r")
    assert drive.over and not house.runtime.running
    assert "chat" in {row.step for row in rows}
    await settle()
    assert {row.step: row.state for row in house.reconciler.rows()} == {"chat": "stopped"}
    assert list(house.world.state.ports) == ["r/chat"] and house.world.desk.held() == []


async def test_a_full_disk_stops_no_life_and_what_happened_is_owed_to_it(house: House) -> None:
    await house.ready(recipe(service("chat", restart=Restart(backoff_s=1.0))))
    house.world.state.full = True
    house.runtime.end(house.runtime.marker("r/chat"), code=1)
    await settle()
    assert house.state("chat") == "backoff"
    await house.world.clock.advance(2.0)
    assert house.state("chat") == "waiting" and "no space left" in house.row("chat").reason
    assert not house.runtime.running, "nothing is started that is not written down"
    assert house.world.state.rows("step")["r/chat"]["state"] == "ready", "as the disk has it"
    house.world.state.full = False
    await house.world.clock.advance(10.0)
    assert house.state("chat") == "ready" and house.row("chat").generation == 2
    assert house.world.state.rows("step")["r/chat"]["generation"] == 2


async def test_nothing_is_started_before_its_start_is_on_the_disk(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.ready(recipe(service("chat", restart=Restart(backoff_s=1.0))))
    disk, record = asyncio.Event(), house.world.state.record

    async def slowly(*events: Any) -> Any:
        await disk.wait()
        return await record(*events)

    monkeypatch.setattr(house.world.state, "record", slowly)
    house.runtime.end(house.runtime.marker("r/chat"), code=1)
    await house.world.clock.advance(5.0)
    assert not house.runtime.running, "its disk has not answered yet"
    starts, start = [], house.runtime.start

    async def seen(order: Any) -> Any:
        row = house.world.state.rows("step")["r/chat"]
        starts.append((row["state"], row["generation"], order.identity.generation))
        return await start(order)

    monkeypatch.setattr(house.runtime, "start", seen)
    disk.set()
    await house.world.clock.advance(5.0)
    assert starts == [("starting", 2, 2)]


async def test_a_stop_on_a_full_disk_is_written_down_when_there_is_room(house: House) -> None:
    await house.ready(recipe(service("chat")))
    house.world.state.full = True
    house.reconciler.boxes["r/chat"].post(Stop("down"))
    await settle()
    assert house.state("chat") == "stopped" and not house.runtime.running
    house.world.state.full = False
    await house.world.clock.advance(2.0)
    assert house.world.state.rows("step")["r/chat"]["state"] == "stopped"


async def test_a_port_that_could_not_be_given_back_is_given_back_when_there_is_room(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "_AGAIN_S", 0.01)
    await house.ready(recipe(service("chat"), service("other")))
    house.world.state.full = True
    for name in ("chat", "other"):
        house.reconciler.boxes[f"r/{name}"].post(Stop("down"))
    await settle()
    assert house.state("chat") == "stopped"
    assert house.world.state.active == {"r/chat", "r/other"}
    house.world.state.full = False
    house.reconciler.boxes["r/other"].post(Go())
    await house.world.clock.advance(2.0)
    await asyncio.wait_for(house.world.state.released["r/chat"].wait(), 10)
    assert house.world.state.active == {"r/other"}, "who was started again meanwhile keeps its own"
    assert house.state("other") == "ready"


async def test_a_port_that_the_last_daemon_did_not_give_back_is_given_back(
    house: House, tmp_path: Path
) -> None:
    await house.ready(recipe(service("chat"), service("lives")))
    row = msgspec.structs.replace(house.row("chat"), state="stopped", want="down", handle=None)
    await house.world.record(Event("service.stopped", "r/chat", "step", msgspec.to_builtins(row)))
    house.runtime.running.pop(house.runtime.marker("r/chat"))  # and here the daemon is killed
    fresh = await house.crash(tmp_path)
    assert fresh.world.state.active == {"r/lives"}
    await fresh.reconciler.close()
    await fresh.world.close()


async def test_a_run_that_cannot_be_written_down_is_refused(house: House) -> None:
    house.world.state.full = True
    with pytest.raises(OutOfResource, match="no space left"):
        await house.up(recipe(service("chat")))
    assert not house.runtime.running


async def test_a_service_that_became_a_job_ends_first(house: House) -> None:
    await house.ready(recipe(service("x")))
    await house.up(recipe(job("x")))
    assert [verb for verb, _ in house.runtime.calls] == ["start", "stop", "start"]
    await house.finish("x")
    assert house.state("x") == "succeeded"


async def test_what_a_plugin_s_patterns_do_to_the_reader_of_logs_stops_no_service(house: House) -> None:
    def broken(*_: object) -> Any:
        raise ValueError("bad pattern")

    house.world.reports.progress = broken
    house.world.reports.last_words = broken
    await house.ready(recipe(service("chat")))
    assert house.state("chat") == "ready"
    house.runtime.end(house.runtime.marker("r/chat"), code=1)
    await settle()
    assert house.row("chat").reason == "exit code 1"
    await house.world.clock.advance(5.0)
    assert house.state("chat") == "ready", "ends are heard all the same"


class GatedPlanning:
    """Plans at once, but tells what it planned only when `gate` opens."""

    def __init__(self, house: House, compiled: Compiled) -> None:
        self.gate = asyncio.Event()
        self._house = house
        self._compiled = compiled

    async def plan(self, request: RecipeRequest, tell: object) -> Planned:
        found = await self.again(self._compiled, ())
        await self.gate.wait()
        return Planned(self._compiled, found, LockFile(None, {}), self._house.world.host)

    async def again(
        self, compiled: Compiled, force: object, host: object = None, ports: object = None
    ) -> Plan:
        rows = {row.step: row for row in self._house.reconciler.rows()}
        old = self._house.reconciler.compiled(compiled.recipe)
        previous = {step.name: step for step in old.steps} if old else {}
        images = {("program", "echo")}
        return plan(compiled, Snapshot(self._house.world.host, images=images, rows=rows, previous=previous))


async def test_an_up_that_was_planned_before_another_ended_starts_nothing_anew(house: House) -> None:
    compiled = recipe(service("chat"))
    planning: Any = GatedPlanning(house, compiled)
    running = Running(planning, house.reconciler, lambda recipe: [])
    request = RecipeRequest((), "/nowhere", kept=True)

    async def up() -> list[Any]:
        return [item async for item in running.up(request)]

    late = asyncio.create_task(up())
    await settle()
    await house.ready(compiled)
    planning.gate.set()
    items = await asyncio.wait_for(late, 5)
    assert items[-1]["end"]["exit_code"] == 0
    assert house.row("chat").generation == 1
    assert house.runtime.calls == [("start", "r/chat")]
