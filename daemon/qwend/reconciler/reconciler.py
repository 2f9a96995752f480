"""Routes signals to mailboxes, keeps runs apart, and picks up the pieces after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Literal

import msgspec

from qwend.core.signals import Stop
from qwend.effects import Realised
from qwend.errors import Interrupted, UsageError
from qwend.model.event import Event
from qwend.model.image import Image
from qwend.model.plan import Compiled, CompiledStep, Plan
from qwend.model.service import HEIR, Run, Step
from qwend.reconciler import handover
from qwend.reconciler.builds import Builds
from qwend.reconciler.mailbox import Mailbox
from qwend.reconciler.recovery import Recovery
from qwend.reconciler.runs import Drive
from qwend.reconciler.world import World

log = logging.getLogger(__name__)


class _Planned(msgspec.Struct, frozen=True):
    """A recipe's row. `beside` are steps of an earlier plan that are under way and that the last one left alone."""

    compiled: Compiled
    run: str
    beside: tuple[CompiledStep, ...] = ()


class Reconciler:
    """All mailboxes and all runs of one daemon."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.boxes: dict[str, Mailbox] = {}
        self.drives: dict[str, Drive] = {}
        self._plans: dict[str, _Planned] = {}
        self._making: dict[str, asyncio.Lock] = {}
        self.builds = Builds(world)
        self._recovery = Recovery(self)

    # -- what is known -----------------------------------------------------------------------------

    def rows(self, recipe: str | None = None) -> list[Step]:
        """Every step's row, those of live mailboxes first-hand."""
        stored = self.world.state.rows("step")
        keys = dict.fromkeys([*stored, *self.boxes])
        rows = [
            self.boxes[key].row if key in self.boxes else msgspec.convert(stored[key], Step) for key in keys
        ]
        return [row for row in rows if recipe is None or row.recipe == recipe]

    def compiled(self, recipe: str) -> Compiled | None:
        """The last plan of a recipe that was acted upon."""
        planned = self._planned(recipe)
        return planned.compiled if planned is not None else None

    def known(self, recipe: str) -> tuple[CompiledStep, ...]:
        """The steps of that plan, and those that it left out although they were under way."""
        planned = self._planned(recipe)
        return (*planned.compiled.steps, *planned.beside) if planned is not None else ()

    def _planned(self, recipe: str) -> _Planned | None:
        row = self.world.state.rows("recipe").get(recipe)
        if row is None:
            return None
        known = self._plans.get(recipe)
        if known is None or known.run != row["run"]:
            known = self._plans[recipe] = msgspec.convert(row, _Planned)
        return known

    def producers(self, compiled: Compiled, step: CompiledStep) -> dict[str, str]:
        """The step's input names with the fingerprints of their producers."""
        fingerprints = {other.name: other.fingerprint for other in self.known(compiled.recipe)}
        fingerprints |= {other.name: other.fingerprint for other in compiled.steps}
        return {edge.name: fingerprints[edge.step] for edge in step.inputs if edge.step in fingerprints}

    def box(self, compiled: Compiled, step: CompiledStep, run: str) -> Mailbox:
        """The step's mailbox, made if there is none."""
        key = f"{compiled.recipe}/{step.name}"
        box = self.boxes.get(key)
        if box is None:
            stored = self.world.state.rows("step").get(key)
            row = msgspec.convert(stored, Step) if stored else None
            if row is None or row.kind != _kind(step):
                row = Step(key, compiled.recipe, step.name, _kind(step), step.engine, step.fingerprint, run)
            box = self.boxes[key] = Mailbox(row, step, self.producers(compiled, step), self.world)
        return box

    async def fit(self, compiled: Compiled, step: CompiledStep, run: str) -> Mailbox:
        """The same, and of the step's kind: a service that became a job ends first."""
        box = self.boxes.get(f"{compiled.recipe}/{step.name}")
        if box is not None and box.row.kind != _kind(step):
            box.post(Stop("it became another kind of step"))
            await box.until(lambda row: row.settled and row.state != "ready")
            await box.close()
            del self.boxes[box.key]
        return self.box(compiled, step, run)

    # -- runs --------------------------------------------------------------------------------------

    def active(self, recipe: str) -> Drive | None:
        return self.drives.get(recipe)

    async def start(self, run: Run, compiled: Compiled, plan: Plan) -> Drive:
        """Begins a run. A run of the same recipe that is under way gives way: its jobs go on where the new
        plan wants the very same ones, and are cancelled where it does not."""
        old = self.drives.pop(compiled.recipe, None)
        if old is not None and not old.over:
            await old.cancel("superseded", _superseded(plan))
            await self._drop_unwanted(old.compiled, compiled)
        planned = _Planned(compiled, run.id, self._beside(compiled))
        row = msgspec.to_builtins(planned)
        await self.world.record(Event("recipe.planned", compiled.recipe, "recipe", row, run=run.id))
        self._plans[compiled.recipe] = planned
        drive = self.drives[compiled.recipe] = Drive(run, compiled, plan, self)
        if old is not None:
            await self.end_builds()
        return drive

    def _beside(self, compiled: Compiled) -> tuple[CompiledStep, ...]:
        """Steps that the new plan leaves out and leaves alone, and that are under way."""
        here = {step.name for step in compiled.steps}
        rows = {row.step: row for row in self.rows(compiled.recipe)}
        return tuple(
            step
            for step in self.known(compiled.recipe)
            if step.name not in here and step.name in rows and _under_way(rows[step.name])
        )

    async def _drop_unwanted(self, old: Compiled, new: Compiled) -> None:
        wanted = {step.name: step.fingerprint for step in new.steps}
        for step in old.steps:
            heir = self.boxes.get(f"{old.recipe}/{step.name}{HEIR}")
            if heir is not None:
                await handover.forget(self, heir, "the recipe changed")
            box = self.boxes.get(f"{old.recipe}/{step.name}")
            if box is None or box.row.kind != "job" or box.row.settled:
                continue
            if wanted.get(step.name) != step.fingerprint:
                box.post(Stop("the recipe changed"))
                await box.until(lambda row: row.settled)

    def over(self, drive: Drive) -> None:
        if self.drives.get(drive.compiled.recipe) is drive:
            del self.drives[drive.compiled.recipe]

    @contextlib.asynccontextmanager
    async def making(self, fingerprint: str) -> AsyncIterator[None]:
        """One maker per fingerprint at a time, whatever recipe it belongs to."""
        lock = self._making.setdefault(fingerprint, asyncio.Lock())
        async with lock:
            yield
        if not lock.locked():
            self._making.pop(fingerprint, None)

    async def realise(self, runtime: str, image: Image) -> Realised:
        """The realised image; whoever asks meanwhile shares the build."""
        return await self.builds.realise(runtime, image)

    async def end_builds(self) -> list[str]:
        """Ends the builds that no run and no client waits for; the names of their images."""
        wanted = {key for drive in self.drives.values() for key in drive.wants()}
        return await self.builds.abandon(wanted)

    # -- stops -------------------------------------------------------------------------------------

    async def down(self, recipe: str, kill: bool = False, runs: Collection[str] | None = None) -> list[Step]:
        """Stops a recipe, or what these runs of it started, in reverse order of dependence; returns the rows of
        what was stopped."""
        drive = self.drives.pop(recipe, None)
        if drive is not None and not drive.over:
            await drive.cancel()
        steps = self.known(recipe)
        for row in self.rows(recipe):
            if row.key not in self.boxes and _under_way(row) and row.step in {step.name for step in steps}:
                self.find(row.key)
        boxes = {box.row.step: box for box in self.boxes.values() if box.row.recipe == recipe}
        live = {
            name: box
            for name, box in boxes.items()
            if (box.row.alive or not box.row.settled) and (runs is None or box.row.run in runs)
        }
        users = _users(steps)
        tasks: dict[str, asyncio.Task[Step]] = {}

        async def stop(name: str) -> Step:
            for user in users.get(name, ()):
                if user in tasks:
                    await tasks[user]
            box = live[name]
            await box.post(Stop("down", kill))
            # A code while it stops: its runtime is away or cannot end it. It is tried on and on, but not waited for.
            return await box.until(lambda row: (row.settled and row.state != "ready") or bool(row.code))

        for name in [*(step.name for step in reversed(steps)), *live]:
            if name in live and name not in tasks:
                tasks[name] = asyncio.create_task(stop(name))
        return list(await asyncio.gather(*tasks.values()))

    async def kill(self, recipe: str, runs: Collection[str]) -> None:
        """Ends what these runs started and what still stops: the second Ctrl-C."""
        for box in self.boxes.values():
            if box.row.recipe == recipe and box.row.alive and box.row.run in runs:
                box.post(Stop("killed", kill=True))

    def find(self, key: str) -> Mailbox:
        """The mailbox of `recipe/step`, made from the last plan if it is not live. Raises UsageError."""
        if key in self.boxes:
            return self.boxes[key]
        recipe, _, name = key.partition("/")
        compiled = self.compiled(recipe)
        for step in self.known(recipe):
            if compiled is not None and step.name == name:
                return self.box(compiled, step, "")
        raise UsageError(f"there is no step {key}", code="no-such-step", hint="qwend ps lists them")

    async def recover(self) -> dict[str, int]:
        """Adopts what lives, ends what nobody knows, and goes on where the last daemon was cut off.

        Returns counts: adopted, ended, strays.
        """
        return await self._recovery.recover()

    async def attach(self, runtime: str) -> dict[str, int]:
        """Takes up a runtime: what lives in it is adopted. Called once for each, when it answers.

        Until then, rows of a runtime that is away stay as they are.
        """
        return await self._recovery.attach(runtime)

    async def close(self) -> None:
        """The daemon goes; what runs stays."""
        await self._recovery.close()
        for drive in self.drives.values():
            drive.task.cancel()
        self.builds.close()
        for box in self.boxes.values():
            await box.close()


def _kind(step: CompiledStep) -> Literal["job", "service"]:
    return "service" if step.kind == "service" else "job"


def _superseded(plan: Plan) -> Interrupted:
    """What the client of the run before is told."""
    todo = [f"{action.verb} {action.step}" for action in plan.actions if action.verb != "keep"]
    more = f" and {len(todo) - 3} more" if len(todo) > 3 else ""
    return Interrupted(
        f"another `up` of {plan.recipe} took this one's place: it is to {', '.join(todo[:3])}{more}; what both want "
        "goes on",
        code="superseded",
        hint="qwend ps shows it",
    )


def _under_way(row: Step) -> bool:
    return row.alive or row.state in {"waiting", "backoff"}


def _users(steps: Iterable[CompiledStep]) -> dict[str, set[str]]:
    users: dict[str, set[str]] = {}
    for step in steps:
        for producer in (*(edge.step for edge in step.inputs), *step.needs):
            users.setdefault(producer, set()).add(step.name)
    return users


def unfinished(runs: Iterable[Run]) -> list[Run]:
    """Runs that a crash cut off."""
    return [run for run in runs if run.state in {"planned", "running"}]
