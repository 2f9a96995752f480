"""Faults 11 and 18, with a clock and an engine that do as they are told (a fake clock, a fake runtime).

Docker Engine itself is killed and started again in `tests/unit/adapters/docker`, and shut off from a whole daemon in
`test_07_12_18_containers`; here is what the reconciler makes of what the runtime then says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.fakes.effects import FakeRuntime, recipe, service, settle, world
from tests.unit.reconciler.test_reconciler import House

from qwend.errors import Unreachable
from qwend.model.launch import Resources
from qwend.model.plan import Restart
from qwend.model.service import Handle
from qwend.reconciler.reconciler import Reconciler

DAY = 86400.0


class Engine(FakeRuntime):
    """A runtime that can be away."""

    away = False

    async def stop(self, handle: Handle, grace_s: float) -> bool:
        if self.away:
            raise Unreachable("Docker Engine does not answer", hint="start it")
        return await super().stop(handle, grace_s)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    given = world(str(tmp_path))
    given.runtimes["native"] = Engine()
    made = House(given)
    await made.reconciler.recover()
    yield made
    await made.reconciler.close()
    await made.world.close()


@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_11_no_timer_fires_or_hangs_when_the_wall_clock_jumps(house: House, jump: float) -> None:
    house.world.prober.sick = "no answer"
    await house.up(recipe(service("chat", deadline_s=30.0, restart=Restart(backoff_s=4.0))))
    house.world.clock.jump += jump
    await house.world.clock.advance(29.0)
    assert house.state("chat") == "starting"
    house.world.prober.sick = None
    await house.world.clock.advance(0.5)
    assert house.state("chat") == "ready"
    house.runtime.end(house.runtime.marker("r/chat"), code=1)
    await settle()
    house.world.clock.jump += jump
    await house.world.clock.advance(2.9)
    assert house.state("chat") == "backoff", "three quarters of four seconds at least"
    await house.world.clock.advance(1.5)
    assert house.state("chat") == "ready"


@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_11_a_jump_while_no_daemon_ran_neither_ends_a_start_nor_makes_it_endless(
    house: House, tmp_path: Path, jump: float
) -> None:
    house.world.prober.sick = "no answer"
    await house.up(recipe(service("chat", deadline_s=30.0)))
    await house.reconciler.close()
    await house.world.close()
    later = world(str(tmp_path), crash=house.world)
    later.prober.sick = "no answer"  # type: ignore[attr-defined]
    later.clock.now, later.clock.jump = house.world.clock.now, jump  # type: ignore[attr-defined]
    fresh = House(later)
    await fresh.reconciler.recover()
    await fresh.world.clock.advance(31.0)
    assert fresh.state("chat") == "failed", "at the latest after its whole deadline"
    await fresh.reconciler.close()
    await fresh.world.close()


async def test_18_nothing_is_called_stopped_while_its_engine_is_away(house: House) -> None:
    await house.ready(recipe(service("chat")))
    house.runtime.away = True
    rows = await asyncio.wait_for(house.reconciler.down("r"), 5)
    assert [(row.state, row.code) for row in rows] == [("stopping", "unreachable")]
    assert "Docker Engine does not answer (start it)" in house.row("chat").reason
    await house.world.clock.advance(20.0)
    assert house.state("chat") == "stopping" and house.runtime.running
    house.runtime.away = False
    await house.world.clock.advance(6.0)
    assert house.state("chat") == "stopped" and not house.runtime.running
    assert house.row("chat").reason == "down", "what is over is not told any more"


async def test_18_a_runtime_that_comes_late_is_taken_up_without_duplicates(tmp_path: Path) -> None:
    first = House(world(str(tmp_path)))
    await first.reconciler.recover()
    needs = Resources(cpus=0.5)
    chat, gone = (msgspec.structs.replace(service(name), resources=needs) for name in ("chat", "gone"))
    await first.ready(recipe(chat, gone))
    engine = first.runtime
    await first.reconciler.close()
    await first.world.close()
    engine.end(engine.marker("r/gone"), code=1)
    later = world(str(tmp_path), crash=first.world)
    del later.runtimes["native"]
    fresh = House.__new__(House)
    fresh.world = later
    fresh.reconciler = Reconciler(later)
    await fresh.reconciler.recover()
    await settle()
    assert {row.step: row.state for row in fresh.reconciler.rows()} == {"chat": "ready", "gone": "ready"}
    held = {lease.holder for lease in later.desk.held()}
    assert held == {"r/chat", "r/gone"}, "what may live holds its leases"
    fresh.runtime = later.runtimes["native"] = FakeRuntime(engine)
    await fresh.reconciler.attach("native")
    await later.clock.advance(5.0)  # type: ignore[attr-defined]
    assert fresh.state("chat") == "ready" and fresh.row("chat").generation == 1
    assert fresh.state("gone") == "ready" and fresh.row("gone").generation == 2
    assert len(fresh.runtime.running) == 2
    assert [key for verb, key in fresh.runtime.calls if verb == "start"] == ["r/gone"]
    await fresh.reconciler.close()
    await later.close()


async def test_18_down_while_the_engine_is_away_at_the_start_ends_it_when_it_is_back(tmp_path: Path) -> None:
    first = House(world(str(tmp_path)))
    await first.reconciler.recover()
    await first.ready(recipe(service("chat")))
    await first.reconciler.close()
    await first.world.close()
    later = world(str(tmp_path), crash=first.world)
    del later.runtimes["native"]
    reconciler = Reconciler(later)
    await reconciler.recover()
    (row,) = await asyncio.wait_for(reconciler.down("r"), 5)
    assert (row.state, row.code, row.want) == ("stopping", "unreachable", "down")
    engine = FakeRuntime(first.runtime)
    later.runtimes["native"] = engine
    await reconciler.attach("native")
    await later.clock.advance(6.0)  # type: ignore[attr-defined]
    assert reconciler.rows()[0].state == "stopped" and not engine.running
    await reconciler.close()
    await later.close()
