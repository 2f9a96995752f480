"""Performs what the lifecycle asks for, and posts back what came of it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from qwend.core.signals import (
    Acquire,
    Commit,
    Effect,
    End,
    Ended,
    Late,
    NotStarted,
    Release,
    Spawn,
    Started,
    Timer,
    Watch,
)
from qwend.effects import Order, Work
from qwend.errors import QwendError, StepFailed
from qwend.model.launch import Launch
from qwend.model.service import Exit, Identity, Step
from qwend.reconciler.desk import Needs
from qwend.reconciler.outcome import commit
from qwend.reconciler.watch import watch

if TYPE_CHECKING:
    from qwend.reconciler.mailbox import Mailbox

log = logging.getLogger(__name__)


class Enactor:
    """The hands of one mailbox. Long effects run as tasks and post a signal when they are done."""

    def __init__(self, box: Mailbox) -> None:
        self._box = box
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._exit: Exit | None = None

    async def perform(self, effect: Effect) -> None:
        match effect:
            case Acquire(move=move):
                self._acquire(move)
            case Spawn():
                await self._spawn()
            case Watch():
                self._task("watch", watch(self._box))
            case End(grace_s=grace):
                self._task("end", self._end(grace))
            case Commit():
                if "commit" not in self._tasks or self._tasks["commit"].done():
                    self._task("commit", commit(self._box))
            case Release(port=port):
                await self._release(port)
            case Timer(name=name, seconds=seconds):
                self._timer(name, seconds)

    def ended(self, exit: Exit) -> None:
        """The runtime tells how the process ended. While we are ending it, the ending task reports it."""
        self._exit = exit
        ending = self._tasks.get("end")
        if ending is None or ending.done():
            self._post_end(exit)

    def close(self) -> None:
        for task in [*self._timers.values(), *self._tasks.values()]:
            task.cancel()

    def _task(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        old = self._tasks.get(name)
        if old is not None:
            old.cancel()
        self._tasks[name] = asyncio.create_task(work, name=f"{name} {self._box.key}")

    def _timer(self, name: str, seconds: float | None) -> None:
        old = self._timers.pop(name, None)
        if old is not None:
            old.cancel()
        if seconds is not None:
            self._timers[name] = asyncio.create_task(self._ring(name, seconds))

    async def _ring(self, name: Any, seconds: float) -> None:
        await self._box.world.clock.sleep(seconds)
        self._timers.pop(name, None)
        self._box.post(Late(name))

    def _acquire(self, move: bool) -> None:
        step = self._box.compiled
        avoid = (self._box.row.port,) if move and self._box.row.port else ()
        needs = Needs.of(self._box.key, step, avoid)
        self._box.world.desk.ask(self._box.key, needs, self._box.post)

    async def _release(self, port: bool) -> None:
        watch = self._tasks.get("watch")
        if watch is not None:
            watch.cancel()
        self._box.world.reports.forget(self._box.key)
        await self._box.world.desk.give_back(self._box.key, port)

    async def _spawn(self) -> None:
        """The row with the new generation is durable by now: a crash from here on leaves a marker to find."""
        box = self._box
        self._exit = None
        ending = self._tasks.pop("end", None)
        if ending is not None and not ending.done():
            ending.cancel()
        try:
            order = await self._order()
            handle = await box.world.runtimes[box.compiled.runtime].start(order)
        except QwendError as error:
            await box.handle(NotStarted("; ".join(error.lines()), error.code))
        else:
            await box.handle(Started(handle))

    async def _order(self) -> Order:
        box, world, step = self._box, self._box.world, self._box.compiled
        launch = self.launch()
        if step.image is None:
            raise StepFailed(f"{step.engine} names no image", code="no-image")
        image = await world.builders[step.runtime].find(step.image)
        if image is None:
            raise StepFailed(
                f"image {step.image.name} is not there any more", hint="run the same command again"
            )
        inputs: dict[str, str] = {}
        for name, fingerprint in box.producers.items():
            artifact = await world.store.find(fingerprint)
            if artifact is None:
                raise StepFailed(
                    f"the artifact of {name} is not in the store any more", hint="run qwend up again"
                )
            inputs[name] = artifact.location
        work = await self._prepare(launch)
        missing = [name for name in step.secrets if name not in world.secrets]
        if missing:
            raise StepFailed(
                f"waiting for secret {', '.join(missing)}", hint="run qwend up again with it set"
            )
        row = box.row
        return Order(
            identity=self.identity(row),
            launch=launch,
            image=image,
            inputs=inputs,
            log=str(self.log_path()),
            report=work.report,
            work=work.root,
            output=work.output if row.kind == "job" else None,
            scratch=work.scratch,
            port=row.port,
            host=step.policy.host,
            secrets={
                name: world.secrets[name]
                for name in (*step.secrets, *launch.optional_secrets)
                if name in world.secrets
            },
            gpus=row.gpus,
            memory=step.policy.memory,
            threads=_threads(step.resources.cpus, world.host.cpus),
            env=dict(step.image.env),
            stop_grace_s=step.policy.stop_grace_s,
            service=row.kind == "service",
        )

    async def _prepare(self, launch: Launch) -> Work:
        if self._box.row.kind == "job":
            return await self._box.world.store.prepare(self._box.compiled.fingerprint, launch.resumable)
        work = self.work()
        shutil.rmtree(work.root, ignore_errors=True)
        for folder in (work.output, work.scratch):
            os.makedirs(folder, mode=0o700)
        return work

    def identity(self, row: Step) -> Identity:
        return Identity(
            self._box.world.instance, row.run, row.recipe, row.step, row.fingerprint, row.generation
        )

    def log_path(self) -> Path:
        row = self._box.row
        return Path(self._box.world.home) / "logs" / row.recipe / f"{_folder(row.step)}.log"

    def work(self) -> Work:
        """The step's folders: those of its artifact-to-be, or a service's own."""
        row = self._box.row
        if row.kind == "job":
            return self._box.world.store.work(row.fingerprint)
        root = Path(self._box.world.home) / "run" / row.recipe / _folder(row.step)
        return Work(str(root), *(str(root / name) for name in ("out", "scratch", "report.jsonl")))

    def launch(self) -> Launch:
        launch = self._box.compiled.launch
        if launch is None:
            raise StepFailed(f"{self._box.compiled.engine} has nothing to run", code="no-launch")
        return launch

    async def _end(self, grace: float) -> None:
        box = self._box
        handle = box.row.handle
        killed = False
        if handle is not None:
            try:
                killed = await box.world.runtimes[handle.runtime].stop(handle, grace)
            except QwendError as error:
                log.warning("%s: could not be stopped: %s", box.key, error)
        known = self._exit or Exit(marker=handle.marker if handle else "", lost=handle is not None)
        self._post_end(msgspec.structs.replace(known, killed=killed))

    def _post_end(self, exit: Exit) -> None:
        box = self._box
        watch = self._tasks.pop("watch", None)
        if watch is not None:
            watch.cancel()
        if exit.ok or box.row.after:
            box.post(Ended(exit))
            return
        words, port_taken = box.world.reports.last_words(
            self.launch(), str(self.log_path()), self.work().report
        )
        taken = port_taken or (exit.code is not None and exit.code == self.launch().port_taken_exit)
        how = exit.describe()
        box.post(Ended(exit, f"{how}: {words}" if words else how, taken))


def _folder(step: str) -> str:
    """A step's name as a file name: `quant[Q8_0]` becomes `quant-Q8_0`."""
    return "".join(char if char.isalnum() or char in "_.-" else "-" for char in step).strip("-.") or "step"


def _threads(wanted: float | None, cpus: int) -> int:
    return max(1, int(wanted)) if wanted else max(1, cpus)
