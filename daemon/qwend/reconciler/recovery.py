"""Picks up the pieces after a crash, and hears of exits from then on.

Rows say which start of which step was intended, markers which processes live. What both know is adopted; what
only a marker knows is ended; what only a row knows has ended, and is told so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from qwend.core.signals import Acquire, Commit, End, Late, Started
from qwend.effects import Runtime
from qwend.model.event import Event
from qwend.model.service import HEIR, Exit, Handle, Step
from qwend.reconciler.desk import Needs

if TYPE_CHECKING:
    from qwend.reconciler.mailbox import Mailbox
    from qwend.reconciler.reconciler import Reconciler

log = logging.getLogger(__name__)

_STRAY_GRACE_S = 2.0


class Recovery:
    """Attaches runtimes: at the start of the daemon, or when one answers again."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._world = reconciler.world
        self._tasks: set[asyncio.Task[None]] = set()
        self._deciding: list[asyncio.Future[None]] = []

    async def recover(self) -> dict[str, int]:
        """Attaches every runtime that is there. Returns counts: adopted, ended, strays."""
        self._hold()
        await self._give_back()
        for row in self._reconciler.rows():
            if row.key.endswith(HEIR):
                # It never took over: its process is a stray now, and the run that goes on starts another.
                await self._world.state.release(row.key, sticky=True)
                await self._world.record(
                    Event("service.gone", row.key, "step", None, run=row.run, reason="the daemon was gone")
                )
        counts = {"adopted": 0, "ended": 0, "strays": 0}
        for name in list(self._world.runtimes):
            for what, count in (await self.attach(name)).items():
                counts[what] += count
        return counts

    async def attach(self, name: str) -> dict[str, int]:
        """Adopts what lives in a runtime, ends what nobody knows, tells steps of their ends."""
        runtime = self._world.runtimes[name]
        living = await runtime.living()
        ended = {exit.marker: exit for exit in await runtime.backlog()}
        mine = [
            row
            for row in self._reconciler.rows()
            if (row.runtime or "native") == name and (row.alive or row.state in {"waiting", "backoff"})
        ]
        adopted = 0
        for row in mine:
            adopted += await self._take_up(row, living, ended)
        # Whoever asks from now on is not told of what has ended that it is ready.
        deciding, self._deciding = self._deciding, []
        await asyncio.gather(*deciding)
        known = {f"{self._world.instance}:{box.row.marker}" for box in self._reconciler.boxes.values()}
        strays = living.keys() - known
        await asyncio.gather(*(runtime.stop(living[marker], _STRAY_GRACE_S) for marker in strays))
        self._spawn(self._listen(runtime), f"exits of {name}")
        lost = sum(row.alive for row in mine) - adopted
        return {"adopted": adopted, "ended": lost, "strays": len(strays)}

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _hold(self) -> None:
        """What may live holds its leases until it is known not to, before anybody who waits is given any: also in a
        runtime that does not answer yet."""
        for row in self._reconciler.rows():
            if row.alive:
                step = next((s for s in self._reconciler.known(row.recipe) if s.name == row.step), None)
                if step is not None:
                    self._world.desk.hold(row.key, Needs.of(row.key, step), row)

    async def _give_back(self) -> None:
        """Ports that the last daemon had no time, or no room on its disk, to give back."""
        alive = {row.key for row in self._reconciler.rows() if row.alive}
        for holder, lease in self._world.state.rows("lease").items():
            if lease.get("active") and holder not in alive:
                await self._world.desk.give_back(holder, port=False)

    async def _take_up(self, row: Step, living: dict[str, Handle], ended: dict[str, Exit]) -> bool:
        """Goes on with one step; whether a process of it lives on."""
        compiled = self._reconciler.compiled(row.recipe)
        step = next((one for one in self._reconciler.known(row.recipe) if one.name == row.step), None)
        if compiled is None or step is None:
            await self._write_off(row)
            return False
        box = self._reconciler.box(compiled, step, row.run)
        if row.state == "waiting":
            await box.enactor.perform(Acquire())
        elif row.state == "backoff":
            box.post(Late("backoff"))
        else:
            marker = f"{self._world.instance}:{row.marker}"
            handle = living.get(marker)
            if handle is not None:
                await self._adopt(box, handle)
                return True
            if row.kind == "job" and row.exit is not None and row.exit.ok and not row.after:
                await box.enactor.perform(Commit())  # it was done, and cut off while it was taken in
            else:
                end = ended.get(marker) or Exit(marker, lost=True, at=self._world.clock.wall())
                if (decided := box.enactor.ended(end)) is not None:
                    self._deciding.append(decided)
        return False

    async def _adopt(self, box: Mailbox, handle: Handle) -> None:
        """The process lived on while no daemon watched it."""
        if box.row.state == "stopping" or box.row.after:
            box.show(msgspec.structs.replace(box.row, handle=handle))
            await box.enactor.perform(End(box.compiled.policy.stop_grace_s))
        else:
            await box.handle(Started(handle))
            box.enactor.rearm()

    async def _write_off(self, row: Step) -> None:
        """No plan knows this step any more; if a process of it lives, it is ended as a stray."""
        state = "stopped" if row.kind == "service" else "cancelled"
        gone = msgspec.structs.replace(
            row, state=state, want="down", after="", reason="no longer in the recipe", handle=None
        )
        event = Event(f"{row.kind}.{state}", row.key, "step", msgspec.to_builtins(gone), row.run, gone.reason)
        await self._world.record(event)
        await self._world.desk.give_back(row.key, port=True)

    async def _listen(self, runtime: Runtime) -> None:
        async for exit in runtime.exits():
            try:
                self._hear(runtime, exit)
            except Exception:
                log.exception("the end of %s", exit.marker)

    def _hear(self, runtime: Runtime, exit: Exit) -> None:
        instance, _, marker = exit.marker.partition(":")
        box = None
        if instance == self._world.instance:
            boxes = self._reconciler.boxes.values()
            box = next((box for box in boxes if box.row.alive and box.row.marker == marker), None)
        if box is not None:
            box.enactor.ended(exit)
        self._spawn(self._acknowledge(runtime, exit, box, marker), f"end of {marker}")

    async def _acknowledge(self, runtime: Runtime, exit: Exit, box: Mailbox | None, marker: str) -> None:
        """Only when the end is written down may the runtime forget it."""
        if box is not None:
            await box.until(lambda row: not row.alive or row.marker != marker or row.exit is not None)
        try:
            await runtime.acknowledge(exit)
        except Exception as error:
            log.warning("the end of %s cannot be acknowledged: %s", marker, error)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
