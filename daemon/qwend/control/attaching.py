"""An interactive step for a client's terminal: what it needs is made first, then the client is told what to run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec

from qwend.api.control import AttachRequest, Json
from qwend.control.planning import Planned
from qwend.control.refusals import blocked
from qwend.control.running import Running
from qwend.control.streams import concerning, until
from qwend.control.ulid import ulid
from qwend.control.views import plan_view
from qwend.effects import Screen, Terminal
from qwend.errors import QwendError, UsageError
from qwend.model.plan import CompiledStep
from qwend.reconciler.attached import Attached
from qwend.reconciler.reconciler import Reconciler
from qwend.reconciler.runs import Drive

log = logging.getLogger(__name__)


class Attaching:
    """Terminals of clients. What one needs is a run like any other; the step itself belongs to the connection."""

    def __init__(self, running: Running, reconciler: Reconciler) -> None:
        self._running = running
        self._reconciler = reconciler
        self._leaving: set[asyncio.Task[None]] = set()

    async def attach(self, request: AttachRequest) -> AsyncIterator[Json]:
        """News until everything is there, then `{"terminal": …}`; the step holds its leases until the stream is
        closed. Raises UsageError where the request names no interactive step."""
        planned: Planned | None = None
        async for item in self._running.planned(request):
            if isinstance(item, dict):
                yield item
            else:
                planned = item
        if planned is None:
            return
        step = _interactive(planned, request.steps)
        yield plan_view(planned.plan, planned.compiled)
        if planned.plan.blockers:
            raise blocked(planned.plan)
        producers = self._reconciler.producers(planned.compiled, step)
        recipe, name = planned.compiled.recipe, ulid()
        attached = Attached(self._reconciler.world, recipe, step, producers, name)
        try:
            async with self._reconciler.world.hub.follow() as news:
                drive = await self._running.make(_before(planned, step), request)
                screen = Screen(request.tty, request.term, request.client)
                task = asyncio.create_task(self._ready(attached, drive, step, screen))
                try:
                    if drive is not None:
                        yield {"run": drive.run.id, "attached": False}
                    async for item in until(task, news, *concerning(planned.compiled)):
                        yield item
                finally:
                    task.cancel()
                    if drive is not None:
                        self._running.leave(drive)
                terminal = task.result()
                if terminal is None:
                    yield {"end": {"state": "cancelled", "exit_code": 130, "error": None, "steps": []}}
                    return
                yield {"terminal": msgspec.to_builtins(terminal)}
            await asyncio.Event().wait()  # for good: the client ends it by closing the connection
        finally:
            # The stream's own task is being cancelled: whatever is awaited in it is cut short.
            leaving = asyncio.create_task(self._leave(attached))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _ready(
        self, attached: Attached, drive: Drive | None, step: CompiledStep, screen: Screen
    ) -> Terminal | None:
        """None where the run was stopped by hand."""
        if step.image is None:
            raise UsageError(f"{step.engine} names no image", code="no-image")
        image = asyncio.create_task(self._reconciler.realise(step.runtime, step.image))
        try:
            if drive is not None:
                await asyncio.wait({drive.task})
                if drive.task.cancelled():
                    return None
                if drive.error is not None:
                    raise drive.error
            await image
        finally:
            image.cancel()
        return await attached.ready(screen)

    async def _leave(self, attached: Attached) -> None:
        try:
            await attached.gone()
        except QwendError as error:
            log.warning("an attached step could not be cleared away: %s", error)
        await self._reconciler.end_builds()


def _interactive(planned: Planned, asked: tuple[str, ...]) -> CompiledStep:
    steps = [step for step in planned.compiled.steps if step.kind == "interactive"]
    if len(steps) == 1:
        return steps[0]
    named = ", ".join(asked) or planned.compiled.recipe
    raise UsageError(
        f"{named} names {len(steps)} interactive steps, a terminal has room for one"
        if steps
        else f"{named} needs no terminal",
        code="not-interactive",
        hint="qwend run STEP -f FILE" if steps else "qwend up starts it",
    )


def _before(planned: Planned, step: CompiledStep) -> Planned:
    """The same plan without the interactive step, as if it had been left out."""
    compiled, plan = planned.compiled, planned.plan
    rest = tuple(other for other in compiled.steps if other is not step)
    actions = tuple(action for action in plan.actions if action.step != step.name)
    return msgspec.structs.replace(
        planned,
        compiled=msgspec.structs.replace(compiled, steps=rest, left_out=(*compiled.left_out, step.name)),
        plan=msgspec.structs.replace(plan, actions=actions),
    )
