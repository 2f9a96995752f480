"""One step's mailbox: its row, and the queue of signals that change it one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import msgspec

from qwend.core.lifecycle import decide
from qwend.core.signals import End, Signal, Started, Stop
from qwend.model.event import Event
from qwend.model.plan import CompiledStep
from qwend.model.service import Handle, Step
from qwend.reconciler.desk import Needs
from qwend.reconciler.enact import Enactor
from qwend.reconciler.world import World

log = logging.getLogger(__name__)


class Mailbox:
    """Owns the row of one step. Nothing else changes it; a read of `row` from outside is advice.

    `producers` maps the step's inputs to the fingerprints of what makes them.
    """

    def __init__(self, row: Step, compiled: CompiledStep, producers: Mapping[str, str], world: World) -> None:
        self.row = row
        self.compiled = compiled
        self.producers = dict(producers)
        self.world = world
        self.enactor = Enactor(self)
        self._queue: asyncio.Queue[tuple[Signal, asyncio.Future[None]]] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"mailbox {row.key}")
        self._late: set[asyncio.Task[None]] = set()

    @property
    def key(self) -> str:
        return self.row.key

    def post(self, signal: Signal) -> asyncio.Future[None]:
        """Puts a signal in the queue. The future is done when it has been decided and its effects ordered."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((signal, done))
        return done

    def adopt(self, compiled: CompiledStep, producers: Mapping[str, str], run: str) -> None:
        """Takes a new plan of the step. Policies apply at once; what a start needs counts from the next one."""
        self.compiled = compiled
        self.producers = dict(producers)
        if not self.row.alive:
            self.row = msgspec.structs.replace(
                self.row,
                run=run,
                fingerprint=compiled.fingerprint,
                engine=compiled.engine,
                runtime=compiled.runtime,
                image=compiled.image.name if compiled.image else "",
                host=compiled.policy.host,
                proven=False,
            )

    async def cached(self, digest: str) -> None:
        """The step's artifact is there already; nothing runs."""
        row = msgspec.structs.replace(
            self.row,
            state="cached",
            artifact=digest,
            fingerprint=self.compiled.fingerprint,
            reason="",
            exit=None,
        )
        if row != self.row:
            event = self._event(self.row, row)
            self.row = row
            await self.world.record(event)
        self._changed.set()

    async def readopt(self, handle: Handle) -> None:
        """The process lived on while no daemon watched it."""
        self.world.desk.hold(self.key, Needs.of(self.key, self.compiled), self.row)
        if self.row.state == "stopping" or self.row.after:
            self.row = msgspec.structs.replace(self.row, handle=handle)
            await self.enactor.perform(End(self.compiled.policy.stop_grace_s))
        else:
            await self.handle(Started(handle))

    async def until(self, holds: Callable[[Step], bool]) -> Step:
        """Waits until the row is so; returns it."""
        while not holds(self.row):
            self._changed.clear()
            await self._changed.wait()
        return self.row

    async def close(self) -> None:
        """Lets go of the step without touching what runs."""
        self.enactor.close()
        self._task.cancel()
        await asyncio.gather(self._task, *self._late, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            signal, done = await self._queue.get()
            try:
                await self.handle(signal)
            except Exception:
                log.exception("%s: %s could not be handled", self.key, type(signal).__name__)
            if not done.done():
                done.set_result(None)

    async def handle(self, signal: Signal) -> None:
        """Decides, makes the change durable, then performs its effects. A stop does not wait for the disk."""
        before = self.row
        after, effects = decide(before, self.compiled.policy, signal)
        if after != before:
            after = self._stamp(before, after)
            event = self._event(before, after)
            self.row = after
            if isinstance(signal, Stop):
                self._record_later(event)
            else:
                await self.world.record(event)
            self._changed.set()
        for effect in effects:
            await self.enactor.perform(effect)

    def _record_later(self, event: Event) -> None:
        task = asyncio.create_task(self._record(event))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _record(self, event: Event) -> None:
        try:
            await self.world.record(event)
        except Exception as error:
            log.warning("%s: the stop goes on although it could not be recorded: %s", self.key, error)

    def _stamp(self, before: Step, after: Step) -> Step:
        now = self.world.clock.wall()
        if after.state == before.state:
            return after
        if after.state in {"starting", "running"}:
            log = str(self.enactor.log_path())
            return msgspec.structs.replace(after, started=now, ready=None, ended=None, log=log)
        if after.state == "ready" and before.state == "starting":
            return msgspec.structs.replace(after, ready=now)
        if after.state in {"stopped", "failed", "succeeded", "cancelled", "backoff"}:
            return msgspec.structs.replace(after, ended=now, handle=None)
        return after

    def _event(self, before: Step, after: Step) -> Event:
        kind = f"{after.kind}.{after.state}" if after.state != before.state else f"{after.kind}.changed"
        return Event(
            kind=kind,
            subject=after.key,
            table="step",
            row=msgspec.to_builtins(after),
            run=after.run,
            reason=after.reason or None,
        )
