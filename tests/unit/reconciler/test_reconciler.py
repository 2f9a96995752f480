"""The reconciler against a world in memory: what is started, stopped, recorded and found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.effects import FakeRuntime, job, recipe, service, settle, world

from qwend.control.clearing import clear_scratch
from qwend.core.planner import Snapshot, plan
from qwend.core.signals import Again, Stop
from qwend.errors import GateRefused, OutOfResource, StepFailed
from qwend.model.host import Host
from qwend.model.image import HostProgram
from qwend.model.launch import Resources
from qwend.model.plan import Compiled, CompiledStep, Restart
from qwend.model.service import Run
from qwend.reconciler.reconciler import Reconciler
from qwend.reconciler.runs import Drive
from qwend.reconciler.world import World


class House:
    """A reconciler with its world, and the words that tests speak."""

    def __init__(self, given: World) -> None:
        self.world: Any = given  # its rooms are fakes, with more to say than their protocols
        self.reconciler = Reconciler(given)
        self.runtime: Any = self.world.runtimes["native"]
        self._runs = 0

    async def up(self, compiled: Compiled, force: tuple[str, ...] = ()) -> Drive:
        self._runs += 1
        old = self.reconciler.compiled(compiled.recipe)
        snapshot = Snapshot(
            self.world.host,
            artifacts=frozenset(self.world.store.artifacts),
            images={("program", "echo")},
            rows={row.step: row for row in self.reconciler.rows(compiled.recipe)},
            previous={step.name: step for step in old.steps} if old else {},
        )
        run = Run(f"run{self._runs}", compiled.recipe, "planned", 0.0, force=force)
        drive = await self.reconciler.start(run, compiled, plan(compiled, snapshot, force))
        await settle()
        return drive

    def state(self, step: str) -> str:
        return next(row.state for row in self.reconciler.rows() if row.step == step)

    def row(self, step: str) -> Any:
        return next(row for row in self.reconciler.rows() if row.step == step)

    async def finish(self, step: str, code: int = 0, **how: Any) -> None:
        self.runtime.end(self.runtime.marker(f"r/{step}"), code=code, **how)
        await settle()

    async def ready(self, compiled: Compiled) -> Drive:
        """Brings a recipe up whose jobs all succeed."""
        drive = await self.up(compiled)
        for _ in range(20):
            for step in compiled.steps:
                if step.kind == "job" and any(f"r/{step.name}" in marker for marker in self.runtime.running):
                    await self.finish(step.name)
            await self.world.clock.advance(1.0)
        await asyncio.wait_for(asyncio.shield(drive.task), 1)
        return drive

    async def crash(self, tmp_path: Path) -> House:
        """The daemon dies; what runs lives on, and the next daemon recovers."""
        await self.reconciler.close()
        await self.world.desk.close()
        fresh = House(world(str(tmp_path), crash=self.world))
        await fresh.reconciler.recover()
        await settle()
        return fresh


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(world(str(tmp_path)))
    await made.reconciler.recover()
    yield made
    await made.reconciler.close()
    await made.world.desk.close()


async def test_a_chain_runs_in_order_and_ends_ready(house: House) -> None:
    drive = await house.ready(recipe(job("convert"), job("quant", "convert"), service("chat", "quant")))
    assert drive.run.state == "done"
    assert [key for verb, key in house.runtime.calls if verb == "start"] == ["r/convert", "r/quant", "r/chat"]
    assert house.state("chat") == "ready"


async def test_a_second_up_touches_nothing(house: House) -> None:
    compiled = recipe(job("convert"), service("chat", "convert"))
    await house.ready(compiled)
    before = list(house.runtime.calls)
    drive = await house.up(compiled)
    assert drive.run.state == "done"
    assert house.runtime.calls == before


async def test_a_changed_job_runs_again_and_its_service_is_replaced(house: House) -> None:
    await house.ready(recipe(job("convert"), job("q4", "convert"), service("chat", "q4")))
    before = len(house.runtime.calls)
    changed = recipe(
        job("convert"),
        job("q4", "convert", fingerprint="fp-other"),
        service("chat", "q4", fingerprint="fp-chat2"),
    )
    await house.ready(changed)
    assert house.runtime.calls[before:] == [("start", "r/q4"), ("stop", "r/chat"), ("start", "r/chat")]
    assert house.row("chat").port == house.runtime.orders[-1].port


async def test_what_depends_on_a_failed_job_does_not_start(house: House) -> None:
    house.world.reports.words = "unknown tensor"
    drive = await house.up(recipe(job("convert"), service("chat", "convert"), job("other")))
    await house.finish("convert", code=1)
    await house.finish("other")
    await drive.task
    assert isinstance(drive.error, StepFailed)
    assert drive.error.message == "convert: exit code 1: unknown tensor"
    assert house.state("other") == "succeeded"
    assert ("start", "r/chat") not in house.runtime.calls


async def test_a_gate_that_does_not_hold_stops_what_depends_on_it(house: House) -> None:
    house.world.reports.figures = {"perplexity": 20.0}
    drive = await house.up(recipe(job("quality", expect=("perplexity <= 10",)), service("chat", "quality")))
    await house.finish("quality")
    await drive.task
    assert isinstance(drive.error, GateRefused)
    assert "20" in drive.error.message and drive.run.state == "refused"
    assert ("start", "r/chat") not in house.runtime.calls


async def test_a_service_that_dies_is_started_again_after_its_backoff(house: House) -> None:
    await house.ready(recipe(service("chat")))
    port = house.row("chat").port
    house.runtime.end(house.runtime.marker("r/chat"), code=1)
    await settle()
    assert house.state("chat") == "backoff"
    await house.world.clock.advance(2.0)
    assert house.state("chat") == "ready"
    assert house.row("chat").port == port and house.row("chat").generation == 2


async def test_a_service_that_fails_while_it_loads_fails_at_once_with_its_last_words(house: House) -> None:
    house.world.prober.sick = "no answer"
    house.world.reports.words = "out of memory"
    drive = await house.up(recipe(service("chat")))
    house.runtime.end(house.runtime.marker("r/chat"), code=1)
    await settle()
    await drive.task
    assert house.row("chat").state == "failed" and house.row("chat").reason == "exit code 1: out of memory"


async def test_a_crash_loop_ends_failed(house: House) -> None:
    await house.ready(recipe(service("chat", restart=Restart(max=3))))
    for _ in range(4):
        house.runtime.end(house.runtime.marker("r/chat"), code=1)
        await settle()
        await house.world.clock.advance(61.0)
    assert house.state("chat") == "failed"
    assert "gave up after 3 restarts" in house.row("chat").reason


async def test_long_health_begins_the_count_anew(house: House) -> None:
    await house.ready(recipe(service("chat", restart=Restart(max=1, reset_s=100.0))))
    for _ in range(3):
        house.runtime.end(house.runtime.marker("r/chat"), code=1)
        await settle()
        await house.world.clock.advance(300.0)
        assert house.state("chat") == "ready"


async def test_a_memory_kill_is_not_restarted_into_the_same_wall(house: House) -> None:
    await house.ready(recipe(service("chat")))
    house.runtime.end(house.runtime.marker("r/chat"), signal=9, oom=True)
    await settle()
    assert house.state("chat") == "failed" and "killed for memory" in house.row("chat").reason


async def test_a_service_that_is_never_ready_is_stopped_at_its_deadline(house: House) -> None:
    house.world.prober.sick = "no answer"
    drive = await house.up(recipe(service("chat", deadline_s=30.0)))
    await house.world.clock.advance(31.0)
    await drive.task
    assert house.row("chat").reason.startswith("not ready after 30 s")
    assert house.state("chat") == "failed" and not house.runtime.running


async def test_down_while_starting_ends_stopped_and_stays_so(house: House) -> None:
    house.world.prober.sick = "no answer"
    await house.up(recipe(service("chat")))
    await house.reconciler.down("r")
    await house.world.clock.advance(500.0)
    assert house.state("chat") == "stopped" and not house.runtime.running


async def test_down_stops_users_before_what_they_need(house: House) -> None:
    proxy = msgspec.structs.replace(service("proxy"), needs=("model",))
    await house.ready(recipe(service("model"), proxy))
    await house.reconciler.down("r")
    assert [key for verb, key in house.runtime.calls if verb == "stop"] == ["r/proxy", "r/model"]
    assert not house.runtime.running


async def test_a_stop_does_not_wait_for_a_full_disk(house: House) -> None:
    await house.ready(recipe(service("chat")))
    house.world.state.full = True
    house.reconciler.boxes["r/chat"].post(Stop("down"))
    await settle()
    assert not house.runtime.running


async def test_a_port_that_a_stranger_took_is_left_for_another(house: House) -> None:
    house.world.prober.sick = "refused"
    house.world.reports.taken = True
    await house.up(recipe(service("chat")))
    first = house.row("chat").port
    house.runtime.end(house.runtime.marker("r/chat"), code=1)
    await settle()
    assert house.row("chat").port != first and house.state("chat") == "starting"


async def test_a_fixed_port_that_is_taken_fails_and_says_so(house: House) -> None:
    house.world.state.ports["other/web"] = 8080
    drive = await house.up(recipe(service("chat", port=8080)))
    await drive.task
    assert isinstance(drive.error, OutOfResource)
    assert "port 8080 is taken" in drive.error.message


async def test_a_full_disk_at_commit_fails_the_job_as_out_of_resource(house: House) -> None:
    house.world.store.full = True
    drive = await house.up(recipe(job("convert")))
    await house.finish("convert")
    await drive.task
    assert isinstance(drive.error, OutOfResource)
    assert house.state("convert") == "failed"


async def test_heavy_jobs_run_one_after_the_other_with_a_visible_reason(tmp_path: Path) -> None:
    house = House(world(str(tmp_path), host=Host("linux", "x86_64", 2)))
    await house.reconciler.recover()
    heavy = Resources(heavy=True)
    first, second = (msgspec.structs.replace(job(name), resources=heavy) for name in ("one", "two"))
    await house.up(recipe(first, second))
    assert sorted([house.state("one"), house.state("two")]) == ["running", "waiting"]
    waiting = "two" if house.state("two") == "waiting" else "one"
    assert "heavy" in house.row(waiting).reason
    await house.finish("one" if waiting == "two" else "two")
    assert house.state(waiting) == "running"
    await house.reconciler.close()
    await house.world.desk.close()


async def test_two_recipes_with_the_same_job_run_it_once(house: House) -> None:
    await house.up(recipe(job("convert")))
    await house.up(recipe(job("convert"), name="other"))
    assert [key for verb, key in house.runtime.calls if verb == "start"] == ["r/convert"]
    await house.finish("convert")
    states = {row.recipe: row.state for row in house.reconciler.rows()}
    assert states == {"r": "succeeded", "other": "cached"}


async def test_a_restart_asked_for_starts_a_new_generation_on_the_same_port(house: House) -> None:
    await house.ready(recipe(service("chat")))
    port = house.row("chat").port
    house.reconciler.boxes["r/chat"].post(Again())
    await house.world.clock.advance(1.0)
    assert house.row("chat").generation == 2 and house.row("chat").port == port


async def test_a_crash_of_the_daemon_restarts_nothing_that_lives(house: House, tmp_path: Path) -> None:
    await house.ready(recipe(service("chat")))
    fresh = await house.crash(tmp_path)
    await fresh.world.clock.advance(5.0)
    assert fresh.runtime.calls == []
    assert fresh.state("chat") == "ready" and fresh.row("chat").generation == 1
    await fresh.reconciler.close()
    await fresh.world.desk.close()


async def test_a_service_that_died_meanwhile_is_started_again(house: House, tmp_path: Path) -> None:
    await house.ready(recipe(service("chat")))
    await house.reconciler.close()
    house.runtime.end(house.runtime.marker("r/chat"), code=1)
    fresh = await house.crash(tmp_path)
    await fresh.world.clock.advance(5.0)
    assert fresh.state("chat") == "ready" and fresh.row("chat").generation == 2
    await fresh.reconciler.close()
    await fresh.world.desk.close()


async def test_what_nobody_knows_is_ended_at_the_next_start(house: House, tmp_path: Path) -> None:
    await house.ready(recipe(service("chat")))
    stray = house.runtime.running[house.runtime.marker("r/chat")]
    house.runtime.running["i:run9:r/gone:1"] = msgspec.structs.replace(stray, marker="i:run9:r/gone:1")
    fresh = await house.crash(tmp_path)
    assert ("stop", "r/gone") in fresh.runtime.calls and len(fresh.runtime.running) == 1
    await fresh.reconciler.close()
    await fresh.world.desk.close()


async def test_a_step_that_moved_to_another_runtime_is_adopted_there(house: House, tmp_path: Path) -> None:
    docker = FakeRuntime()
    house.world.runtimes["docker"] = docker
    house.world.builders["docker"] = house.world.builders["native"]
    await house.ready(recipe(service("chat")))
    moved = msgspec.structs.replace(service("chat", fingerprint="fp-moved"), runtime="docker")
    await house.ready(recipe(moved))
    assert [key for verb, key in docker.calls if verb == "start"] == ["r/chat"]
    await house.reconciler.close()
    await house.world.desk.close()
    later = world(str(tmp_path), crash=house.world)
    later.runtimes["docker"] = FakeRuntime(docker)
    later.builders["docker"] = later.builders["native"]
    fresh = House(later)
    await fresh.reconciler.recover()
    await settle()
    assert fresh.state("chat") == "ready"
    assert len(docker.running) == 1
    await fresh.reconciler.close()
    await fresh.world.desk.close()


async def test_a_step_that_selects_has_one_of_its_inputs_as_its_artifact(house: House) -> None:
    chooser = msgspec.structs.replace(job("best", "small", "large"), select=True)
    house.world.reports.choice = "small"
    await house.ready(recipe(job("small"), job("large"), chooser))
    assert house.row("best").artifact == house.row("small").artifact


async def test_a_gate_may_speak_of_what_was_chosen(house: House) -> None:
    chooser = msgspec.structs.replace(job("best", "small", expect=("mean_kld <= 0.05",)), select=True)
    house.world.reports.choice = "small"
    house.world.reports.figures = {"mean_kld": 0.04}
    await house.ready(recipe(job("small"), chooser))
    later = await house.up(
        recipe(job("small"), chooser, job("after", "best", expect=("best.mean_kld <= 0.01",)))
    )
    await house.finish("after")
    await later.task
    assert isinstance(later.error, GateRefused) and "0.04 <= 0.01" in str(later.error)


async def test_a_choice_that_was_not_offered_fails_the_step(house: House) -> None:
    chooser = msgspec.structs.replace(job("best", "small"), select=True)
    house.world.reports.choice = "other"
    await house.up(recipe(job("small"), chooser))
    await house.finish("small")
    await house.finish("best")
    assert house.row("best").state == "failed"
    assert "chose other" in house.row("best").reason


async def test_a_step_whose_image_cannot_be_built_has_failed_and_says_why(house: House) -> None:
    builder: Any = house.world.builders["native"]
    builder.missing = {"one"}
    builder.broken = StepFailed("no compiler", code="no-compiler")
    image = HostProgram(name="one", program="one", install_hint="")
    chain = recipe(
        msgspec.structs.replace(job("a"), image=image), msgspec.structs.replace(service("b"), image=image)
    )
    drive = await house.up(chain)
    await drive.task
    assert [(house.row(name).state, house.row(name).reason) for name in ("a", "b")] == [
        ("failed", "image one: no compiler")
    ] * 2
    assert house.row("a").code == "no-compiler" and house.runtime.calls == []
    builder.broken = None
    await house.ready(chain)
    assert (house.state("a"), house.state("b")) == ("succeeded", "ready")


async def test_a_service_whose_new_image_cannot_be_built_goes_on_as_it_was(house: House) -> None:
    await house.ready(recipe(service("chat")))
    before = house.row("chat")
    builder: Any = house.world.builders["native"]
    builder.missing = {"two"}
    builder.broken = StepFailed("no compiler")
    image = HostProgram(name="two", program="two", install_hint="")
    drive = await house.up(recipe(msgspec.structs.replace(service("chat"), image=image, fingerprint="new")))
    await drive.task
    assert drive.error is not None and "no compiler" in str(drive.error)
    assert house.row("chat") == before


async def test_images_that_do_not_need_each_other_are_built_side_by_side_and_each_once(house: House) -> None:
    builder: Any = house.world.builders["native"]
    builder.gate = asyncio.Event()

    def within(step: CompiledStep, name: str) -> CompiledStep:
        return msgspec.structs.replace(step, image=HostProgram(name=name, program=name, install_hint=""))

    # Each step waits for the one before it; their images wait for nobody.
    chain = recipe(
        within(job("a"), "one"), within(job("b", "a"), "two"), within(job("c", "b"), "one"),
        within(service("d", "c"), "three"),
    )  # fmt: skip
    builder.missing = {"one", "two", "three"}
    await house.up(chain)
    assert sorted(builder.built) == ["one", "three", "two"]
    assert house.runtime.calls == []
    builder.gate.set()
    await settle()
    assert house.state("a") == "running"
    assert sorted(builder.built) == ["one", "three", "two"]


@pytest.mark.parametrize("kept", [True, False])
async def test_a_services_scratch_is_kept_from_start_to_start_where_it_says_so_and_cleared_at_rest(
    house: House, tmp_path: Path, kept: bool
) -> None:
    made = service("chat")
    assert made.launch is not None
    made = msgspec.structs.replace(made, launch=msgspec.structs.replace(made.launch, resumable=kept))
    await house.ready(recipe(made))
    work = tmp_path / "run" / "r" / "chat"
    (work / "scratch" / "pulled").write_text("12345")
    (work / "out" / "old").write_text("1")
    house.reconciler.boxes["r/chat"].post(Again())
    await house.world.clock.advance(1.0)
    assert house.row("chat").generation == 2
    assert (work / "scratch" / "pulled").exists() is kept
    assert not (work / "out" / "old").exists()

    (work / "scratch" / "more").write_text("67")
    home, rows = str(tmp_path), house.reconciler.rows
    assert await clear_scratch(home, rows(), dry_run=False) == 0, "a service that runs keeps what it has"
    house.reconciler.boxes["r/chat"].post(Stop())
    await house.world.clock.advance(1.0)
    assert house.state("chat") == "stopped"
    size = 7 if kept else 2
    assert await clear_scratch(home, rows(), dry_run=True) == size
    assert (work / "scratch" / "more").exists()
    assert await clear_scratch(home, rows(), dry_run=False) == size
    assert not (work / "scratch").exists()
    assert await clear_scratch(home, rows(), dry_run=False) == 0
