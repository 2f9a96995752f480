"""Walks a recipe's graph: each step starts when its inputs, its image and its gate allow it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from qwend.core.gate import evaluate, figures, parse
from qwend.core.handover import obstacle
from qwend.core.signals import Go, Stop
from qwend.errors import GateRefused, OutOfResource, QwendError, StepFailed
from qwend.model.artifact import Artifact
from qwend.model.event import Event
from qwend.model.plan import Compiled, CompiledStep, Plan
from qwend.model.service import Run, RunState, Step
from qwend.reconciler import handover
from qwend.reconciler.builds import build_key
from qwend.reconciler.equipping import Images

if TYPE_CHECKING:
    from qwend.reconciler.mailbox import Mailbox
    from qwend.reconciler.reconciler import Reconciler

log = logging.getLogger(__name__)

_RESOURCES = {"out-of-resource", "out-of-memory", "port-taken", "disk-full", "store-quota"}


class Skipped(Exception):
    """A step did not start because `cause` failed."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Drive:
    """One run under way. `done` holds its last row; followers read events from the hub."""

    def __init__(self, run: Run, compiled: Compiled, plan: Plan, reconciler: Reconciler) -> None:
        self.run = run
        self.compiled = compiled
        self.plan = plan
        self.error: QwendError | None = None
        self._reconciler = reconciler
        self._world = reconciler.world
        self._verbs = {action.step: action for action in plan.actions}
        self._steps = {step.name: step for step in compiled.steps}
        self._outcomes: dict[str, asyncio.Task[None]] = {}
        self._images = Images(reconciler)
        self.task = asyncio.create_task(self._go(), name=f"run {run.id}")

    @property
    def over(self) -> bool:
        return self.task.done()

    async def cancel(self, state: RunState = "cancelled", error: QwendError | None = None) -> None:
        """Starts nothing more; what runs is left to its mailbox. `error` is what followers are told."""
        self.error = error
        self.run = msgspec.structs.replace(self.run, state=state)  # followers wake up when the task is over
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        for task in self._outcomes.values():
            task.cancel()
        await self._images.cancel()
        await self._finish(state)

    async def _go(self) -> None:
        await self._save("running")
        for action in self.plan.actions:
            if action.verb == "stop":
                self._outcomes[f"stop {action.step}"] = asyncio.create_task(
                    self._stop(action.step, action.why)
                )
        for step in self.compiled.steps:
            if step.name in self._verbs:
                self._outcomes[step.name] = asyncio.create_task(self._drive(step))
        for step in self.compiled.steps:
            if self._needs_image(step):
                self._images.of(step)
        await asyncio.gather(*self._outcomes.values(), return_exceptions=True)
        self.error = self._first_error()
        state = "done" if self.error is None else "failed"
        await self._finish("refused" if isinstance(self.error, GateRefused) else state)

    def _first_error(self) -> QwendError | None:
        for name, task in self._outcomes.items():
            error = None if task.cancelled() else task.exception()
            if isinstance(error, QwendError):
                return error
            if error is not None and not isinstance(error, Skipped):
                log.error("run %s, step %s", self.run.id, name, exc_info=error)
                return StepFailed(
                    f"{name}: {error or type(error).__name__}",
                    hint="the log that qwend daemon status names has more",
                )
        return None

    async def _drive(self, step: CompiledStep) -> None:
        for name in dict.fromkeys([*(edge.step for edge in step.inputs), *step.needs]):
            await self._await(name)
        if step.kind in {"source", "job"}:
            artifact = await self._make(step)
            await self._gate(step, artifact)
        elif step.kind == "service":
            await self._serve(step)

    async def _await(self, name: str) -> None:
        task = self._outcomes.get(name)
        if task is None:
            return
        try:
            await asyncio.shield(task)
        except Skipped as skipped:
            raise Skipped(skipped.cause) from None
        except Exception:
            raise Skipped(name) from None

    async def _make(self, step: CompiledStep) -> Artifact:
        verb = self._verbs[step.name].verb
        box = self._reconciler.boxes.get(f"{self.compiled.recipe}/{step.name}")
        if box is not None and box.row.state == "running" and box.row.fingerprint == step.fingerprint:
            return await self._run_job(step)  # it goes on where the last daemon was cut off
        async with self._reconciler.making(step.fingerprint):
            found = await self._world.store.find(step.fingerprint)
            if found is not None and verb != "run":
                await self._cached(step, found)
                return found
            if verb == "reference" or (step.pin is not None and step.pin.local is not None):
                return await self._reference(step)
            if found is not None and step.name not in self.run.force:
                await self._cached(step, found)
                return found
            return await self._run_job(step)

    async def _reference(self, step: CompiledStep) -> Artifact:
        pin = step.pin
        if pin is None or pin.local is None:
            raise StepFailed(f"{step.name}: nothing to refer to")
        artifact = await self._world.store.reference(
            pin.local,
            fingerprint=step.fingerprint,
            type=pin.type,
            facts=step.facts,
            provenance={"source": pin.ref, "identity": pin.identity},
            only=[file.path for file in pin.files],
        )
        await self._cached(step, artifact)
        return artifact

    async def _cached(self, step: CompiledStep, artifact: Artifact) -> None:
        box = await self._reconciler.fit(self.compiled, step, self.run.id)
        made = (box.row.run, box.row.state, box.row.artifact) == (self.run.id, "succeeded", artifact.digest)
        await box.adopt(step, self._reconciler.producers(self.compiled, step), self.run.id)
        if not made:  # else this very run made it, before a crash cut it off
            await box.cached(artifact.digest)
        if step.policy.out is not None:
            await self._world.store.publish(artifact, step.policy.out)

    async def _run_job(self, step: CompiledStep) -> Artifact:
        box = await self._reconciler.fit(self.compiled, step, self.run.id)
        if not (box.row.state in {"waiting", "running"} and box.row.fingerprint == step.fingerprint):
            if box.row.state in {"waiting", "running"}:
                await box.post(Stop("the recipe changed"))
                await box.until(lambda row: row.settled)
            producers = self._reconciler.producers(self.compiled, step)
            await self._images.equip(box, step, producers, self.run.id)
            await box.adopt(step, producers, self.run.id)
            await box.post(Go())
        row = await box.until(lambda row: row.settled)
        if row.state != "succeeded":
            raise _failure(step, row)
        artifact = await self._world.store.find(step.fingerprint)
        if artifact is None:
            raise StepFailed(f"{step.name}: its artifact vanished from the store")
        return artifact

    async def _gate(self, step: CompiledStep, artifact: Artifact) -> None:
        if not step.policy.expect:
            return
        found = [
            (other.name, await self._world.store.find(other.fingerprint))
            for other in self.compiled.steps
            if other.kind == "job"
        ]
        others = ((name, made.metrics) for name, made in found if made is not None)
        metrics = figures(step.name, artifact.metrics, others)
        verdicts = [evaluate(parse(text), metrics) for text in step.policy.expect]
        refused = [verdict.figures for verdict in verdicts if not verdict.holds]
        if refused:
            await self._world.record(
                Event(
                    "gate.refused",
                    f"{self.compiled.recipe}/{step.name}",
                    run=self.run.id,
                    reason="; ".join(refused),
                )
            )
            raise GateRefused(f"{step.name}: {'; '.join(refused)}", where=step.where or None)

    async def _serve(self, step: CompiledStep) -> None:
        verb, why = self._verbs[step.name].verb, self._verbs[step.name].why
        box = await self._reconciler.fit(self.compiled, step, self.run.id)
        producers = self._reconciler.producers(self.compiled, step)
        if verb == "keep" and box.row.want == "up" and box.row.state not in {"stopped", "failed"}:
            await box.adopt(step, producers, box.row.run)  # who started it answers for it
        else:
            await self._images.equip(box, step, producers, self.run.id)
            if await self._rolled(box, step, producers, f"replaced: {why}"):
                return
            if box.row.alive or box.row.state in {"waiting", "backoff"}:
                await box.post(Stop(f"replaced: {why}"))
                await box.until(lambda row: row.state in {"stopped", "failed"})
            await box.adopt(step, producers, self.run.id)
            await box.post(Go())
        row = await box.until(lambda row: row.settled)
        if row.state != "ready":
            raise _failure(step, row)

    async def _rolled(self, box: Mailbox, step: CompiledStep, producers: dict[str, str], why: str) -> bool:
        """Whether a service that runs was replaced without a gap. False: it is to be stopped first."""
        hindrance = obstacle(step, self.compiled.steps, self._world.host)
        if step.policy.replace != "rolling" or hindrance or box.row.state not in {"ready", "unhealthy"}:
            return False
        row, lacking = await handover.roll(self._reconciler, box, step, producers, self.run.id, why)
        if row is None:
            return True
        if not lacking:
            failure = _failure(step, row)
            raise type(failure)(
                f"{failure.message}; the one before it goes on",
                code=failure.code,
                hint=f"qwend logs {box.key}",
            )
        await self._world.record(
            Event("service.stop-first", box.key, run=self.run.id, reason=f"no room for both: {lacking}")
        )
        return False

    async def _stop(self, name: str, why: str) -> None:
        box = self._reconciler.boxes.get(f"{self.compiled.recipe}/{name}")
        if box is not None:
            await box.post(Stop(why))
            await box.until(lambda row: row.settled and row.state != "ready")

    def wants(self) -> set[str]:
        """Keys of the builds that the run needs."""
        steps = (step for step in self.compiled.steps if self._needs_image(step))
        return {build_key(step.runtime, step.image) for step in steps if step.image is not None}

    def _needs_image(self, step: CompiledStep) -> bool:
        action = self._verbs.get(step.name)
        return action is not None and action.verb in {"run", "start", "replace"} and step.image is not None

    async def _finish(self, state: str) -> None:
        await self._save(state)
        self._reconciler.over(self)

    async def _save(self, state: str) -> None:
        error = self.error.to_dict() if self.error is not None else None
        ended = None if state == "running" else self._world.clock.wall()
        self.run = msgspec.structs.replace(self.run, state=state, error=error, ended=ended)
        event = Event(f"run.{state}", self.run.id, "run", msgspec.to_builtins(self.run), run=self.run.id)
        try:
            await self._world.record(event)
        except QwendError:
            if state == "running":
                raise
            self._world.owe(event)  # it is over whether the disk takes it or not


def _failure(step: CompiledStep, row: Step) -> QwendError:
    kind = OutOfResource if row.code in _RESOURCES else StepFailed
    return kind(
        f"{step.name}: {row.reason or row.state}", code=row.code or None, hint=f"qwend logs {row.key}"
    )
