"""Effects done twice, and a daemon that dies between any two of them: nothing is lost, doubled or brought back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.effects import job, recipe, service, settle, world
from tests.unit.reconciler.test_reconciler import House

from qwend.core.signals import Again, Effect, Stop
from qwend.model.plan import Restart
from qwend.reconciler.enact import Enactor

BEFORE = recipe(
    job("train"),
    service("chat", "train", replace="rolling"),
    service("web", restart=Restart(policy="always")),
)
AFTER = recipe(
    job("train"),
    service("chat", "train", fingerprint="fp-new", replace="rolling"),
    service("web", restart=Restart(policy="always")),
)
Act = Callable[[House], Awaitable[None]]


async def begin(house: House) -> None:
    await house.ready(BEFORE)


async def die(house: House) -> None:
    house.runtime.end(house.runtime.marker("r/web"), code=1)
    await house.world.clock.advance(5.0)


async def replace(house: House) -> None:
    await house.ready(AFTER)


async def restart(house: House) -> None:
    house.reconciler.find("r/web").post(Again())
    await house.world.clock.advance(1.0)


async def stop(house: House) -> None:
    house.reconciler.find("r/web").post(Stop("by hand"))
    await house.world.clock.advance(1.0)


async def down(house: House) -> None:
    await house.reconciler.down("r")
    await settle()


STORY: tuple[Act, ...] = (begin, die, replace, restart, stop, down)


def seen(house: House) -> dict[str, Any]:
    """All that is left of a story, without the times."""
    state = house.world.state
    return {
        "rows": {row.key: (row.state, row.want, row.generation, row.port) for row in house.reconciler.rows()},
        "running": sorted(house.runtime.running),
        "unacknowledged": sorted(house.runtime.unacknowledged),
        "held": sorted((lease.kind, lease.holder) for lease in house.world.desk.held()),
        "ports": (dict(state.ports), set(state.active)),
        "artifacts": sorted(house.world.store.artifacts),
    }


async def told(folder: Path, story: tuple[Act, ...]) -> list[dict[str, Any]]:
    """What there is after each part of the story."""
    house = House(world(str(folder)))
    await house.reconciler.recover()
    found = []
    for act in story:
        await act(house)
        found.append(seen(house))
    await house.reconciler.close()
    await house.world.close()
    return found


async def test_an_effect_that_is_done_twice_leaves_what_it_leaves_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = await told(tmp_path, STORY)
    real, count = Enactor.perform, 0

    async def twice(self: Enactor, effect: Effect) -> None:
        nonlocal count
        count += 1
        await real(self, effect)
        await real(self, effect)

    monkeypatch.setattr(Enactor, "perform", twice)
    assert await told(tmp_path, STORY) == once
    assert count > 20, "the story has them all"


class Fate:
    """The daemon dies right before its `after`th effect: from then on nothing is done any more."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.struck = asyncio.Event()

    async def meet(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.struck.set()
            await asyncio.Event().wait()


@pytest.fixture
def fates(monkeypatch: pytest.MonkeyPatch) -> list[Fate]:
    """The fate of the daemon under test stands in it, if it has one."""
    fates: list[Fate] = []
    real = Enactor.perform

    async def perform(self: Enactor, effect: Effect) -> None:
        for fate in fates:
            await fate.meet()
        await real(self, effect)

    monkeypatch.setattr(Enactor, "perform", perform)
    return fates


async def until_struck(fate: Fate, act: Awaitable[None]) -> bool:
    """Whether the daemon died while it did this."""
    doing, struck = asyncio.ensure_future(act), asyncio.ensure_future(fate.struck.wait())
    await asyncio.wait({doing, struck}, return_when=asyncio.FIRST_COMPLETED)
    died = fate.struck.is_set()
    for task in (doing, struck):
        task.cancel()
    await asyncio.gather(doing, struck, return_exceptions=True)
    if not died:
        doing.result()
    return died


async def ended_well(house: House, going_down: bool) -> None:
    """After the crash the next daemon goes on, and its user asks again for what he had asked for."""
    await house.world.clock.advance(20.0)
    if going_down:
        await asyncio.wait_for(house.reconciler.down("r"), 5)
        await settle()
        assert house.runtime.running == {}
        assert {row.state for row in house.reconciler.rows()} <= {
            "stopped",
            "succeeded",
            "cancelled",
            "cached",
        }
        assert house.world.desk.held() == [] and house.world.state.active == set()
        return
    await house.ready(AFTER)
    await house.world.clock.advance(20.0)
    rows = {row.step: row for row in house.reconciler.rows()}
    assert set(rows) == {"train", "chat", "web"}, "no heir is left"
    assert {rows["chat"].state, rows["web"].state} == {"ready"}, rows
    assert rows["train"].state in {"succeeded", "cached"}
    assert rows["chat"].fingerprint == "fp-new"
    markers = sorted(marker.partition(":")[2].partition(":")[2] for marker in house.runtime.running)
    assert [marker.partition(":")[0].partition("@")[0] for marker in markers] == ["r/chat", "r/web"]
    assert house.world.state.active == {"r/chat", "r/web"}
    assert {lease.holder for lease in house.world.desk.held()} <= {"r/chat", "r/web"}


@pytest.mark.parametrize("part", range(len(STORY)), ids=[act.__name__ for act in STORY])
async def test_a_daemon_that_dies_between_any_two_effects_is_followed_by_one_that_goes_on(
    tmp_path: Path, fates: list[Fate], part: int
) -> None:
    for after in range(200):
        house = House(world(str(tmp_path)))
        await house.reconciler.recover()
        for act in STORY[:part]:
            await act(house)
        fates.append(fate := Fate(after))
        died = await until_struck(fate, STORY[part](house))
        fates.clear()
        fresh = await house.crash(tmp_path)
        await ended_well(fresh, going_down=STORY[part] is down)
        await fresh.reconciler.close()
        await fresh.world.close()
        if not died:
            assert after > 1, "there was nothing to die between"
            return
    raise AssertionError("the story goes on for ever")
