"""`up` against a world in memory: what a second one still owes although nothing is left to make."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.effects import job, recipe, service, settle, world

from qwend.api.control import FileText, RecipeRequest
from qwend.control.acting import act
from qwend.control.lockfile import LockFile
from qwend.control.planning import Planning
from qwend.control.running import Running
from qwend.effects import Progress
from qwend.errors import OutOfResource, UsageError
from qwend.model.artifact import Pin
from qwend.model.event import Event
from qwend.model.host import Host
from qwend.model.plan import Compiled, Restart
from qwend.reconciler.reconciler import Reconciler
from qwend.worker.wire import LoadReply, LoadRequest


class Compiler:
    """A planner worker that compiles every recipe to what the test holds."""

    compiled: Compiled

    async def load(self, request: LoadRequest) -> LoadReply:
        return LoadReply(self.compiled.recipe, ())

    async def compile(self, request: LoadRequest, pins: Any, have: Compiled | None = None) -> Compiled:
        return self.compiled


class Images:
    async def keys(self) -> set[tuple[str, str]]:
        return {("program", "echo")}


class Asker:
    async def ask(self, question: Any, tell: Any) -> Pin:
        raise AssertionError("no recipe here has sources")


class House:
    """The running of recipes, and the words that tests speak."""

    def __init__(self, folder: Path) -> None:
        self.world: Any = world(str(folder))
        self.reconciler = Reconciler(self.world)
        self.worker = Compiler()

        def native(host: Host) -> tuple[Host, tuple[str, ...]]:
            return host, ("native",)

        planning = Planning(self.worker, Asker(), Images(), self.reconciler, runtime=None, runtimes=native)
        self.planning = planning
        self.restart()

    def restart(self) -> None:
        """What another daemon knows of those who asked: nothing."""
        self.running = Running(self.planning, self.reconciler, self.rows)

    def rows(self, _: str | None) -> list[dict[str, Any]]:
        return [{"kind": row.kind, "step": row.step} for row in self.reconciler.rows()]

    async def let_go(self, told: list[dict[str, Any]]) -> bool:
        """A client of that `up` says that it wants no more of it: whether this stopped anything."""
        run = next(item["run"] for item in told if "run" in item)
        task = asyncio.create_task(self.running.release(run, kill=False))
        for _ in range(3):
            await settle()
            await self.world.clock.advance(1.0)
        return bool((await asyncio.wait_for(task, 1))["stopped"])

    def states(self) -> dict[str, str]:
        return {row.step: row.state for row in self.reconciler.rows()}

    async def lock(self, compiled: Compiled) -> list[dict[str, Any]]:
        """All that a client of `lock` is told."""
        self.worker.compiled = compiled
        request = RecipeRequest((FileText("-", ""),), "/nowhere")
        return [item async for item in self.running.lock(request)]

    async def up(self, compiled: Compiled, kept: bool = True) -> list[dict[str, Any]]:
        """All that a client is told; jobs succeed and services come up."""
        self.worker.compiled = compiled
        request = RecipeRequest((FileText("-", ""),), "/nowhere", kept=kept)

        async def told() -> list[dict[str, Any]]:
            return [item async for item in self.running.up(request)]

        task = asyncio.create_task(told())
        for _ in range(30):
            await settle()
            for marker in list(self.world.runtimes["native"].running):
                if "job" in marker:
                    self.world.runtimes["native"].end(marker, code=int("bad" in marker))
            await self.world.clock.advance(1.0)
            if task.done():
                break
        return await asyncio.wait_for(task, 1)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.reconciler.recover()
    yield made
    await made.reconciler.close()
    await made.world.desk.close()


def end(told: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = told[-1]["end"]
    return found


def changes(told: list[dict[str, Any]]) -> bool:
    return bool(next(item["plan"]["changes"] for item in told if "plan" in item))


async def test_a_second_up_of_the_same_recipe_begins_no_run(house: House) -> None:
    compiled = recipe(job("job"), service("chat", "job"))
    assert end(await house.up(compiled))["state"] == "done"
    assert (await house.up(compiled))[-1]["run"] is None


async def test_an_up_that_was_planned_before_another_one_ended_does_nothing_over_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = house.worker.compiled = recipe(service("chat"))
    plan, planned, go_on = house.planning.plan, asyncio.Event(), asyncio.Event()

    async def slowly(*given: Any) -> Any:
        found = await plan(*given)
        planned.set()
        await go_on.wait()
        return found

    async def told() -> list[dict[str, Any]]:
        request = RecipeRequest((FileText("-", ""),), "/nowhere", kept=True)
        return [item async for item in house.running.up(request)]

    monkeypatch.setattr(house.planning, "plan", slowly)
    late = asyncio.create_task(told())
    await planned.wait()
    monkeypatch.undo()
    assert changes(await house.up(compiled))
    go_on.set()
    for _ in range(30):
        await settle()
        await house.world.clock.advance(1.0)
    found = await asyncio.wait_for(late, 60)
    assert not changes(found)
    assert (end(found)["exit_code"], house.states()) == (0, {"chat": "ready"})
    assert [key for verb, key in house.world.runtimes["native"].calls if verb == "start"] == ["r/chat"]


async def test_a_second_up_waits_for_what_is_kept_and_on_its_way(house: House) -> None:
    compiled = recipe(service("chat", restart=Restart(policy="always", backoff_s=8.0)))
    await house.up(compiled)
    runtime = house.world.runtimes["native"]
    runtime.end(runtime.marker("r/chat"), code=1)
    await settle()
    assert house.states() == {"chat": "backoff"}
    told = await house.up(compiled)
    assert not changes(told)
    assert next(item["run"] for item in told if "run" in item) is not None, "there is something to wait for"
    assert (end(told)["exit_code"], house.states()) == (0, {"chat": "ready"})


async def test_a_gate_that_refused_refuses_again(house: House) -> None:
    compiled = recipe(job("job", expect=("speed >= 10",)))
    for _ in range(2):
        told = end(await house.up(compiled))
        assert told["exit_code"] == 4
        assert "speed" in told["error"]["message"]


async def test_a_gate_added_to_what_is_made_is_asked(house: House) -> None:
    assert end(await house.up(recipe(job("job"))))["exit_code"] == 0
    told = await house.up(recipe(job("job", expect=("speed >= 10",))))
    assert not changes(told)
    assert end(told)["exit_code"] == 4


async def test_what_is_made_appears_at_a_place_named_later(house: House) -> None:
    await house.up(recipe(job("job")))
    assert end(await house.up(recipe(job("job", out="/nowhere/new"))))["exit_code"] == 0
    assert house.world.store.published == ["/nowhere/new"]


async def test_a_place_that_is_taken_is_told_before_anything_runs(house: House) -> None:
    house.world.store.taken = {"/nowhere/taken", "/nowhere/too"}
    compiled = recipe(job("job", out="/nowhere/taken"), job("job2", out="/nowhere/too"))
    with pytest.raises(UsageError) as caught:
        await house.up(compiled)
    assert [line.partition(" ")[0] for line in caught.value.lines()] == ["steps.job.out:", "steps.job2.out:"]
    assert house.world.runtimes["native"].calls == []


async def test_a_changed_policy_applies_without_a_restart(house: House) -> None:
    await house.up(recipe(service("chat")))
    calls = list(house.world.runtimes["native"].calls)
    changed = recipe(service("chat", restart=Restart(max=2)))
    told = await house.up(Compiled("r", "another digest", changed.steps, "/nowhere"))
    assert end(told)["state"] == "done"
    assert house.reconciler.find("r/chat").compiled.policy.restart.max == 2
    assert house.world.runtimes["native"].calls == calls


async def test_an_up_that_changed_nothing_stops_nothing_when_it_is_let_go(house: House) -> None:
    compiled = recipe(job("job", out="/nowhere/new"), service("chat", "job"))
    first = await house.up(compiled, kept=False)
    second = await house.up(compiled, kept=False)
    assert not changes(second)
    runs = [next(item["run"] for item in told if "run" in item) for told in (first, second)]
    assert await house.running.release(runs[1], kill=False) == {"stopped": False}
    assert house.reconciler.find("r/chat").row.state == "ready"
    task = asyncio.create_task(house.running.release(runs[0], kill=False))
    await settle()
    await house.world.clock.advance(1.0)
    assert (await asyncio.wait_for(task, 1))["stopped"]


async def test_who_lets_go_stops_what_his_run_started_and_nothing_of_before(house: House) -> None:
    await house.up(recipe(service("chat")), kept=True)
    house.restart()
    second = await house.up(recipe(service("chat"), service("other")), kept=False)
    assert await house.let_go(second)
    assert house.states() == {"chat": "ready", "other": "stopped"}


async def test_a_run_tells_which_services_it_started(house: House) -> None:
    assert end(await house.up(recipe(service("chat")), kept=True))["started"] == ["chat"]
    assert end(await house.up(recipe(service("chat"), service("other")), kept=False))["started"] == ["other"]
    assert end(await house.up(recipe(job("job"), service("chat"), service("other"))))["started"] == []


async def test_who_made_something_beside_a_service_of_somebody_else_does_not_hold_it(house: House) -> None:
    first = await house.up(recipe(service("chat")), kept=False)
    second = await house.up(recipe(job("job"), service("chat")), kept=False)
    assert changes(second)
    assert await house.let_go(first), "the second is gone: it had nothing to stay for"
    assert house.states()["chat"] == "stopped"


async def test_the_last_of_several_stops_what_all_of_them_started(house: House) -> None:
    first = await house.up(recipe(service("chat")), kept=False)
    second = await house.up(recipe(service("chat"), service("other")), kept=False)
    assert not await house.let_go(second)
    assert house.states() == {"chat": "ready", "other": "ready"}
    assert await house.let_go(first)
    assert house.states() == {"chat": "stopped", "other": "stopped"}


async def test_who_wanted_it_kept_is_not_outvoted(house: House) -> None:
    first = await house.up(recipe(service("chat")), kept=False)
    await house.up(recipe(service("chat")), kept=True)
    assert not await house.let_go(first)
    assert house.states() == {"chat": "ready"}


async def test_whose_run_failed_is_gone_and_no_longer_counts(house: House) -> None:
    failed = await house.up(recipe(job("badjob"), service("chat")), kept=False)
    assert end(failed)["exit_code"] == 1
    second = await house.up(recipe(service("chat"), service("other")), kept=False)
    assert await house.let_go(second)
    assert house.states() == {"badjob": "failed", "chat": "stopped", "other": "stopped"}


async def test_who_hung_up_half_way_no_longer_counts(house: House) -> None:
    house.worker.compiled = recipe(job("job"), service("chat"))
    stream = house.running.up(RecipeRequest((FileText("-", ""),), "/nowhere"))
    async for item in stream:
        if item.get("run"):
            break
    await stream.aclose()  # type: ignore[attr-defined]
    joined = await house.up(recipe(job("job"), service("chat")), kept=False)
    assert next(item["attached"] for item in joined if "attached" in item)
    assert await house.let_go(joined)
    assert house.states()["chat"] == "stopped"


async def test_a_second_interrupt_kills_what_is_being_stopped_and_nothing_else(house: House) -> None:
    await house.up(recipe(service("chat")), kept=True)
    house.restart()
    second = await house.up(recipe(service("chat"), service("other")), kept=False)
    assert await house.let_go(second)
    await house.running.release(next(item["run"] for item in second if "run" in item), kill=True)
    await settle()
    assert house.states()["chat"] == "ready"


@pytest.mark.parametrize(
    ("step", "verb", "state"), [("job", "stop", "succeeded"), ("chat", "start", "ready")]
)
async def test_a_verb_that_changes_nothing_says_so(house: House, step: str, verb: str, state: str) -> None:
    await house.up(recipe(job("job"), service("chat")))
    told = [item async for item in act(house.reconciler, house.rows, f"r/{step}", verb)]
    assert told[0] == {"notice": f"r/{step}: {state} already, there is nothing to {verb}"}
    assert end(told)["state"] == state


@pytest.mark.parametrize("verb", ["start", "restart"])
async def test_what_a_job_made_is_not_made_again_by_a_verb_of_services(house: House, verb: str) -> None:
    await house.up(recipe(job("job"), service("chat")))
    before = list(house.world.runtimes["native"].calls)
    with pytest.raises(UsageError, match=f"r/job is a job: it is not {verb}ed") as caught:
        await anext(act(house.reconciler, house.rows, "r/job", verb))
    assert caught.value.hint == "qwend up --force job runs it again"
    assert house.world.runtimes["native"].calls == before


async def test_a_lock_of_nothing_has_no_path(house: House) -> None:
    assert end(await house.lock(recipe(service("chat")))) == {"changes": [], "path": "", "exit_code": 0}


async def test_a_lock_that_cannot_be_written_is_an_error(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LockFile, "read", lambda *_: LockFile(tmp_path / "r.lock", {}))
    monkeypatch.setattr(LockFile, "changes", ["base: a → b"])
    monkeypatch.setattr(LockFile, "write", lambda _: False)
    with pytest.raises(UsageError, match=r"r\.lock cannot be written"):
        await house.lock(recipe(service("chat")))


# --- builds, and who waits for them -----------------------------------------------------------------------------


def other(compiled: Compiled, name: str) -> Compiled:
    """The same steps under another recipe's name."""
    return Compiled(name, f"{compiled.digest} of {name}", compiled.steps, "/nowhere")


async def begin(house: House, compiled: Compiled, kept: bool = False) -> tuple[asyncio.Task[Any], list[Any]]:
    """An `up` whose image is being built, and what its client was told so far."""
    builder = house.world.builders["native"]
    builder.missing, builder.gate = {"echo"}, builder.gate or asyncio.Event()
    house.worker.compiled = compiled
    told: list[Any] = []
    request = RecipeRequest((FileText("-", ""),), "/nowhere", kept=kept)

    async def follow() -> None:
        async for item in house.running.up(request):
            told.append(item)  # noqa: PERF401 (what was told so far is looked at meanwhile)

    task = asyncio.create_task(follow())
    await settle()
    assert builder.built, "nothing is built"
    return task, told


def run_of(told: list[Any]) -> str:
    return str(next(item["run"] for item in told if item.get("run")))


async def test_the_last_who_lets_go_ends_the_build_that_nobody_else_waits_for(house: House) -> None:
    task, told = await begin(house, recipe(service("chat")))
    answer = await house.running.release(run_of(told), kill=False)
    assert answer == {"stopped": True, "builds_ended": ["echo"], "builds_going_on": []}
    await asyncio.wait_for(task, 10)
    assert [event.kind for event in house.world.state.events if event.kind.startswith("image.")] == [
        "image.building",
        "image.cancelled",
    ]


async def test_down_ends_a_build_and_says_so(house: House) -> None:
    task, _ = await begin(house, recipe(service("chat")))
    *_, ended = [item async for item in house.running.down("r")]
    assert ended["end"]["builds_ended"] == ["echo"]
    await asyncio.wait_for(task, 10)


async def test_a_build_that_another_recipe_waits_for_goes_on_and_that_is_said(house: House) -> None:
    first, told = await begin(house, recipe(service("chat")))
    second, _ = await begin(house, other(recipe(service("chat")), "r2"))
    answer = await house.running.release(run_of(told), kill=False)
    assert (answer["builds_ended"], answer["builds_going_on"]) == ([], ["echo"])
    house.world.builders["native"].gate.set()
    await settle()
    assert house.world.builders["native"].built == ["echo"]
    assert house.reconciler.find("r2/chat").row.state in {"starting", "ready"}
    for task in (first, second):
        task.cancel()


async def test_a_run_that_takes_anothers_place_takes_over_its_build_and_the_other_is_told(
    house: House,
) -> None:
    first, told = await begin(house, recipe(service("chat")))
    changed = Compiled(
        "r", "another digest", (*recipe(service("chat")).steps, *recipe(job("job")).steps), "/nowhere"
    )
    second, _ = await begin(house, changed)
    await asyncio.wait_for(first, 10)
    assert house.world.builders["native"].built == ["echo"]
    assert "image.cancelled" not in [event.kind for event in house.world.state.events]
    ended = end(told)
    assert (ended["state"], ended["exit_code"]) == ("superseded", 130)
    assert "another `up` of r took this one's place: it is to" in ended["error"]["message"]
    assert "run job" in ended["error"]["message"]
    second.cancel()


async def test_what_others_build_is_no_news_of_a_run(house: House) -> None:
    task, told = await begin(house, recipe(job("job")))
    house.world.hub.tell(Progress("image elsewhere", "install", 1, 2))
    house.world.hub.tell(Event("image.building", "elsewhere"))
    house.world.hub.tell(Progress("image echo", "install", 2, 2))
    await settle()
    news = [item["progress"]["subject"] for item in told if "progress" in item]
    assert set(news) == {"image echo"}
    assert [
        item["event"]["subject"] for item in told if "event" in item and "image" in item["event"]["kind"]
    ] == ["echo"]
    task.cancel()


# --- who asked for it to stay, and who did not --------------------------------------------------------------------


async def test_a_kept_up_that_failed_keeps_nothing_from_being_stopped_later(house: House) -> None:
    failed = await house.up(recipe(job("badjob"), service("chat")), kept=True)
    assert end(failed)["exit_code"] == 1
    second = await house.up(recipe(service("chat"), service("other")), kept=False)
    assert await house.let_go(second)
    assert house.states() == {"badjob": "failed", "chat": "ready", "other": "stopped"}


# --- ports --------------------------------------------------------------------------------------------------------


async def test_a_fixed_port_that_is_taken_is_told_by_the_plan_with_its_holder(house: House) -> None:
    house.planning._taken = {8080: "taken by nginx (pid 812)"}.get
    with pytest.raises(OutOfResource) as caught:
        await house.up(recipe(job("job"), service("chat", "job", port=8080)))
    assert caught.value.message.startswith("chat: port 8080 is taken by nginx (pid 812) (stop that")
    assert house.world.runtimes["native"].calls == []


async def test_a_fixed_port_that_is_the_recipes_own_hinders_nothing(house: House) -> None:
    taken: dict[int, str] = {}
    house.planning._taken = taken.get
    assert end(await house.up(recipe(service("chat", port=8080))))["exit_code"] == 0
    taken[8080] = "taken by chat itself"
    assert end(await house.up(recipe(service("chat", port=8080, stop_grace_s=1.0))))["exit_code"] == 0
    with pytest.raises(OutOfResource, match="port 8080 is held by r/chat"):
        await house.up(other(recipe(service("web", port=8080)), "r2"))
