"""Bringing recipes up and down, as streams of what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from qwend.api.control import Json, RecipeRequest
from qwend.control import refusals
from qwend.control.owners import Owners, stays_for
from qwend.control.planning import Planned, Planning
from qwend.control.streams import concerning, drain, until
from qwend.control.ulid import ulid
from qwend.control.views import plan_view
from qwend.effects import Progress
from qwend.errors import Interrupted, QwendError, Unreachable, UsageError
from qwend.model.event import Event
from qwend.model.plan import Compiled
from qwend.model.service import Run, Step
from qwend.reconciler.reconciler import Reconciler, unfinished
from qwend.reconciler.runs import Drive

Rows = Callable[[str | None], list[Json]]


class Running:
    """Runs with their owners. `rows` gives `ps` rows for the end of a stream."""

    def __init__(self, planning: Planning, reconciler: Reconciler, rows: Rows) -> None:
        self._planning = planning
        self._reconciler = reconciler
        self._rows = rows
        self._owners = Owners()
        self._starting: dict[str, asyncio.Lock] = {}
        self._over: dict[str, Drive] = {}

    async def plan(self, request: RecipeRequest) -> AsyncIterator[Json]:
        async for item in self.planned(request):
            yield item if isinstance(item, dict) else plan_view(item.plan, item.compiled)

    async def lock(self, request: RecipeRequest) -> AsyncIterator[Json]:
        async for item in self.planned(request):
            if isinstance(item, dict):
                yield item
            else:
                lock, changes = item.lock, item.lock.changes
                if changes and lock.path is not None and not request.locked and not lock.write():
                    raise UsageError(f"{lock.path} cannot be written", code="unwritable")
                path = "" if lock.path is None or lock.empty else str(lock.path)
                yield {"end": {"changes": changes, "path": path, "exit_code": 0}}

    async def up(self, request: RecipeRequest) -> AsyncIterator[Json]:
        """Plans, starts, and tells how it goes until jobs are done and services ready."""
        if request.host is not None:
            raise UsageError(
                "a recipe runs on this machine; for another it can only be planned", code="other-host"
            )
        planned: Planned | None = None
        async for item in self.planned(request):
            if isinstance(item, dict):
                yield item
            else:
                planned = item
        if planned is None:
            return
        recipe = planned.compiled.recipe
        refusals.refuse_interactive(planned.compiled)
        async with self._reconciler.world.hub.follow() as news:
            async with self._starting.setdefault(recipe, asyncio.Lock()):
                drive = self._reconciler.active(recipe)
                attached = (
                    drive is not None
                    and drive.compiled.digest == planned.compiled.digest
                    and not request.force
                )
                if not attached:
                    drive = None
                    if planned.plan.changes:
                        # Another `up` may have ended since this was planned: what it did is not done again.
                        again = await self._planning.again(
                            planned.compiled, request.force, planned.host, planned.ports
                        )
                        planned = msgspec.structs.replace(planned, plan=again)
                    yield plan_view(planned.plan, planned.compiled)
                    refusals.require_secrets(planned, self._reconciler.world.secrets)
                    if planned.plan.blockers:
                        raise refusals.blocked(planned.plan)
                    if planned.plan.changes or self._unsettled(planned.compiled) or self._owing(planned):
                        drive = await self._start(planned, request)
            if drive is None:
                planned.lock.write()
                if request.kept:
                    self._owners.keep(recipe)
                yield {"run": None, "attached": False, "end": self._end(recipe, "done")}
                return
            run = drive.run.id
            mine = not request.kept and (attached or drive.plan.changes)
            if request.kept:
                self._keep(recipe, drive)
            elif mine:  # else it stays for nothing: there is nothing of its own to stop
                self._owners.join(recipe, run)
            stays = False
            try:
                yield {"run": run, "attached": attached}
                async for item in self._follow(drive, news):
                    stays = stays_for(item.get("end"))
                    yield item
            finally:
                if mine and not stays:
                    self._owners.leave(recipe, run)

    async def make(self, planned: Planned, request: RecipeRequest) -> Drive | None:
        """Begins to make what is planned, or joins who makes the same; None where it is all there. The caller stands
        by the run until it leaves it."""
        compiled = planned.compiled
        async with self._starting.setdefault(compiled.recipe, asyncio.Lock()):
            drive = self._reconciler.active(compiled.recipe)
            if drive is None or drive.compiled.digest != compiled.digest:
                again = await self._planning.again(compiled, request.force, planned.host, planned.ports)
                planned = msgspec.structs.replace(planned, plan=again)
                refusals.require_secrets(planned, self._reconciler.world.secrets)
                planned.lock.write()
                if not again.changes and not self._owing(planned):
                    return None
                drive = await self._start(planned, request)
        self._owners.join(compiled.recipe, drive.run.id)
        return drive

    def leave(self, drive: Drive) -> None:
        """A client that `make` served is gone, or has what it wanted: nothing is stopped."""
        self._owners.leave(drive.compiled.recipe, drive.run.id)

    async def follow(self, run: str) -> AsyncIterator[Json]:
        drive = self._drive(run)
        async with self._reconciler.world.hub.follow() as news:
            async for item in self._follow(drive, news):
                yield item

    async def release(self, run: str, kill: bool) -> Json:
        """An owner lets go. The last owner of a run that nobody kept stops what it started, and no more."""
        drive = self._drive(run)
        recipe = drive.compiled.recipe
        wanted = drive.wants()
        if kill:
            await self._reconciler.kill(recipe, self._owners.leaving(recipe))
            return {"stopped": True}
        if not drive.plan.changes:
            return {"stopped": False}
        runs = self._owners.let_go(recipe, run, followed=not drive.over)
        if runs is None:
            return {"stopped": False}
        await self._reconciler.down(recipe, runs=runs)
        return {
            "stopped": True,
            "builds_ended": await self._reconciler.end_builds(),
            "builds_going_on": self._reconciler.builds.going_on(wanted),
        }

    async def down(self, recipe: str | None) -> AsyncIterator[Json]:
        """Stops one recipe, or all, and tells of every step that ends."""
        rows = self._reconciler.rows(recipe)
        if recipe is not None and not rows and self._reconciler.compiled(recipe) is None:
            raise UsageError(
                f"there is no recipe {recipe}", code="no-such-recipe", hint="qwend ls lists them"
            )
        names = (
            [recipe]
            if recipe is not None
            else sorted({row.recipe for row in rows} | set(self._reconciler.drives))
        )
        ended = [drive for name in names if (drive := self._reconciler.active(name)) is not None]
        async with self._reconciler.world.hub.follow() as news:
            task = asyncio.create_task(self._down(names))
            recipes = set(names)
            async for item in until(
                task,
                news,
                lambda event: event.subject.partition("/")[0] in recipes,
                lambda subject: subject.partition("/")[0] in recipes,
            ):
                yield item
            stopped = task.result()
        wanted = {key for drive in ended for key in drive.wants()}
        ended_builds = await self._reconciler.end_builds()
        done = [row for row in stopped if row.settled]
        killed = [row.key for row in done if row.exit is not None and row.exit.killed]
        left = [f"{row.key} may still run: {row.reason}" for row in stopped if not row.settled]
        error = Unreachable("; ".join(left), hint="it is ended as soon as that is possible") if left else None
        yield {
            "end": {
                "stopped": [row.key for row in done],
                "killed": killed,
                "builds_ended": ended_builds,
                "builds_going_on": self._reconciler.builds.going_on(wanted),
                "exit_code": error.exit_code if error else 0,
                "error": error.to_dict() if error else None,
            }
        }

    async def resume(self) -> int:
        """Goes on with runs that a crash cut off; returns how many."""
        runs = [msgspec.convert(row, Run) for row in self._reconciler.world.state.rows("run").values()]
        count = 0
        for run in unfinished(runs):
            compiled = self._reconciler.compiled(run.recipe)
            row = self._reconciler.world.state.rows("recipe").get(run.recipe)
            if compiled is None or row is None or row["run"] != run.id:
                closed = msgspec.structs.replace(run, state="superseded")
                await self._reconciler.world.record(
                    Event("run.superseded", run.id, "run", msgspec.to_builtins(closed), run=run.id)
                )
                continue
            snapshot = await self._planning.again(compiled, run.force)
            self._over[run.id] = await self._reconciler.start(run, compiled, snapshot)
            if run.kept:
                self._keep(run.recipe, self._over[run.id])
            count += 1
        return count

    async def _start(self, planned: Planned, request: RecipeRequest) -> Drive:
        recipe = planned.compiled.recipe
        now = self._reconciler.world.clock.wall()
        run = Run(ulid(), recipe, "planned", now, kept=request.kept, only=request.steps, force=request.force)
        planned.lock.write()
        drive = await self._reconciler.start(run, planned.compiled, planned.plan)
        self._over[run.id] = drive
        while len(self._over) > 64:
            self._over.pop(next(iter(self._over)))
        return drive

    def _keep(self, recipe: str, drive: Drive) -> None:
        """What `-d` brought up stays; but who asked for what then failed has nothing that others must leave alone."""

        def ended(_: object) -> None:
            if drive.error is not None and not isinstance(drive.error, Interrupted):
                self._owners.keep_no_more(recipe, drive.run.id)

        self._owners.keep(recipe, drive.run.id)
        drive.task.add_done_callback(ended)

    def _unsettled(self, compiled: Compiled) -> bool:
        """Whether a step that is kept is still on its way, so that there is something to wait for."""
        kept = {step.name for step in compiled.steps if step.kind == "service"}
        return any(row.step in kept and not row.settled for row in self._reconciler.rows(compiled.recipe))

    def _owing(self, planned: Planned) -> bool:
        """Whether steps that stay as they are owe something that counts in no fingerprint: a gate that holds, a
        copy at `out:`, a policy that the recipe changed."""
        compiled = planned.compiled
        acting = {one.step for one in planned.plan.actions}
        if any((step.policy.expect or step.policy.out) and step.name in acting for step in compiled.steps):
            return True
        old = self._reconciler.compiled(compiled.recipe)
        if old is not None and old.digest == compiled.digest:
            return False
        before = {step.name: step for step in old.steps} if old is not None else {}
        return any(step != before.get(step.name) for step in compiled.steps if step.name in acting)

    async def planned(self, request: RecipeRequest) -> AsyncIterator[Json | Planned]:
        """Progress while it is planned, then the plan."""
        queue: asyncio.Queue[Progress] = asyncio.Queue()
        self._reconciler.world.learn(request.secrets)
        task = asyncio.create_task(self._planning.plan(request, queue.put_nowait))
        try:
            async for progress in drain(task, queue):
                yield {"progress": msgspec.to_builtins(progress)}
            yield task.result()
        finally:
            task.cancel()

    async def _follow(self, drive: Drive, news: asyncio.Queue[Event | Progress]) -> AsyncIterator[Json]:
        recipe, run = drive.compiled.recipe, drive.run.id

        async for item in until(drive.task, news, *concerning(drive.compiled, run)):
            yield item
        yield {"end": self._end(recipe, drive.run.state, drive.error, run)}

    def _end(self, recipe: str, state: str, error: QwendError | None = None, run: str | None = None) -> Json:
        """How a run ended; `started` names the services that it brought up, for which a client may stay."""
        rows = self._reconciler.rows(recipe) if run is not None else ()
        return {
            "state": state,
            "exit_code": error.exit_code if error is not None else 0 if state == "done" else 130,
            "error": error.to_dict() if error is not None else None,
            "steps": self._rows(recipe),
            "started": [row.step for row in rows if row.kind == "service" and row.run == run],
        }

    def _drive(self, run: str) -> Drive:
        if run not in self._over:
            raise UsageError(f"there is no run {run}", code="no-such-run")
        return self._over[run]

    async def _down(self, names: list[str]) -> list[Step]:
        self._owners.forget(names)
        return [
            row
            for rows in await asyncio.gather(*(self._reconciler.down(one) for one in names))
            for row in rows
        ]
