"""Interactive steps against a world in memory: made ready, handed to a client, and given back when it is gone."""

# ruff: noqa: ASYNC240 (a test has its loop to itself)

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.effects import chat, job, recipe, service, settle
from tests.unit.control.test_running import House

from qwend.api.control import AttachRequest, FileText, RecipeRequest
from qwend.control.attaching import Attaching
from qwend.errors import OutOfResource, StepFailed, UsageError
from qwend.model.launch import Resources
from qwend.model.plan import Compiled

Json = dict[str, Any]
GIB = 1024**3


class Client:
    """One client's stream, read until it waits or ends."""

    def __init__(self, house: House, compiled: Compiled, steps: tuple[str, ...] = ("talk",)) -> None:
        house.worker.compiled = compiled
        request = AttachRequest(
            (FileText("-", ""),), "/nowhere", steps=steps, tty=True, term="vt100", client=os.getpid()
        )
        self.told: list[Json] = []
        self.task = asyncio.create_task(
            self._read(Attaching(house.running, house.reconciler).attach(request))
        )

    async def _read(self, stream: AsyncIterator[Json]) -> None:
        async for item in stream:
            self.told.append(item)

    @property
    def terminal(self) -> Json | None:
        return next((item["terminal"] for item in self.told if "terminal" in item), None)

    async def leave(self) -> None:
        """The connection is closed."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await _eventually(lambda: self.task.done())
        await settle()


async def _eventually(true: Callable[[], bool]) -> None:
    """Waits for what other threads have a part in."""
    async with asyncio.timeout(30):
        while not true():
            await settle()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.reconciler.recover()
    yield made
    await made.reconciler.close()
    await made.world.desk.close()


def runtime(house: House) -> Any:
    return house.world.runtimes["native"]


async def test_what_the_step_needs_is_made_first_then_the_client_is_told_what_to_run(house: House) -> None:
    client = Client(house, recipe(job("job"), chat("talk", "job")))
    await _eventually(lambda: bool(runtime(house).running))
    assert client.terminal is None
    runtime(house).end(runtime(house).marker("r/job"), code=0)
    await _eventually(lambda: client.terminal is not None)
    order = runtime(house).orders[-1]
    assert client.terminal == {"argv": ("/bin/echo", "vt100"), "env": {}, "inherit": False, "secrets": ()}
    assert order.inputs == {"job": "/nowhere"} and os.path.isdir(order.scratch)
    assert [row.step for row in house.reconciler.rows("r")] == ["job"], "a row is for what is supervised"
    await client.leave()


async def test_a_client_that_leaves_gives_back_what_it_held(house: House) -> None:
    needs = Resources(memory=6 * GIB)
    compiled = recipe(chat("talk", resources=needs))
    first = Client(house, compiled)
    await _eventually(lambda: first.terminal is not None)
    second = Client(house, compiled)
    await _eventually(lambda: any("waiting" in str(item) for item in second.told))
    assert second.terminal is None
    folder = Path(runtime(house).orders[0].work)
    await first.leave()
    await _eventually(lambda: second.terminal is not None)
    assert ("detach", "r/talk") in runtime(house).calls
    await _eventually(lambda: not folder.exists())
    await second.leave()
    await _eventually(lambda: house.world.desk.held() == [])


async def test_the_folder_of_a_recipe_never_goes_while_another_step_makes_its_own_in_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmdir, seen = Path.rmdir, set()

    def removed(path: Path) -> None:
        seen.add(threading.get_ident())
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", removed)
    client = Client(house, recipe(chat("talk")))
    await _eventually(lambda: client.terminal is not None)
    folder = Path(runtime(house).orders[0].work)
    await client.leave()
    await _eventually(lambda: not folder.parent.exists())
    assert seen == {threading.get_ident()}, "in the loop, where folders are made too"


async def test_a_client_that_leaves_while_it_waits_is_not_served(house: House) -> None:
    compiled = recipe(chat("talk", resources=Resources(memory=6 * GIB)))
    first = Client(house, compiled)
    await _eventually(lambda: first.terminal is not None)
    second = Client(house, compiled)
    await _eventually(lambda: any("waiting" in str(item) for item in second.told))
    await second.leave()
    await first.leave()
    await _eventually(lambda: house.world.desk.held() == [])
    assert [verb for verb, _ in runtime(house).calls] == ["attach", "detach"]


async def test_more_than_the_machine_has_is_refused(house: House) -> None:
    client = Client(house, recipe(chat("talk", resources=Resources(memory=600 * GIB))))
    with pytest.raises(OutOfResource):
        await client.task


async def test_a_job_that_fails_keeps_the_terminal_away(house: House) -> None:
    client = Client(house, recipe(job("job"), chat("talk", "job")))
    await _eventually(lambda: bool(runtime(house).running))
    runtime(house).end(runtime(house).marker("r/job"), code=1)
    with pytest.raises(StepFailed, match="job"):
        await client.task
    assert client.terminal is None


async def test_a_run_that_is_stopped_by_hand_ends_the_wait(house: House) -> None:
    client = Client(house, recipe(job("job"), chat("talk", "job")))
    await _eventually(lambda: bool(runtime(house).running))
    run = next(item["run"] for item in client.told if item.get("run"))
    releasing = asyncio.create_task(house.running.release(run, False))
    await client.task
    assert client.told[-1]["end"]["exit_code"] == 130
    assert (await releasing)["stopped"]


async def test_services_of_the_recipe_are_left_alone(house: House) -> None:
    await house.up(recipe(job("job"), service("serve", "job")))
    compiled = msgspec.structs.replace(recipe(job("job"), chat("talk", "job")), left_out=("serve",))
    client = Client(house, compiled)
    await _eventually(lambda: client.terminal is not None)
    assert [verb for verb, _ in runtime(house).calls].count("start") == 2, (
        "the job and the service, once each"
    )
    await client.leave()
    assert {row.step: row.state for row in house.reconciler.rows("r")}["serve"] == "ready"


async def test_a_step_that_needs_no_terminal_is_not_given_one(house: House) -> None:
    client = Client(house, recipe(service("serve")), steps=("serve",))
    with pytest.raises(UsageError, match="serve needs no terminal"):
        await client.task


async def test_up_brings_no_interactive_step_up(house: House) -> None:
    house.worker.compiled = recipe(chat("talk"))
    request = RecipeRequest((FileText("-", ""),), "/nowhere", steps=("talk",))
    with pytest.raises(UsageError, match="talks to a terminal"):
        _ = [item async for item in house.running.up(request)]
