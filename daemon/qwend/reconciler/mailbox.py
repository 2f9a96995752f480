"""One step's mailbox: its row, and the queue of signals that change it one at a time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from qwend.core.lifecycle import decide
from qwend.core.signals import Ended, Signal, Spawn, Stop
from qwend.errors import QwendError
from qwend.model.event import Event
from qwend.model.plan import CompiledStep
from qwend.model.service import Step
from qwend.reconciler.enact import Enactor
from qwend.reconciler.world import World

log = logging.getLogger(__name__)

_AGAIN_S = 2.0
_KILLED = {"stopped": "killed", "cancelled": "killed"}


_Work = Callable[[], Awaitable[None]]


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
        self._queue: asyncio.Queue[tuple[Signal | _Work, asyncio.Future[None]]] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"mailbox {row.key}")
        self._late: set[asyncio.Task[None]] = set()
        self._saving: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        return self.row.key

    def post(self, signal: Signal) -> asyncio.Future[None]:
        """Puts a signal in the queue. The future is done when it has been decided and its effects ordered."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((signal, done))
        return done

    async def within(self, work: _Work) -> None:
        """Does something between two signals, while nothing else changes the row."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((work, done))
        await done

    async def adopt(self, compiled: CompiledStep, producers: Mapping[str, str], run: str) -> None:
        """Takes a new plan of the step. Policies apply at once; what a start needs counts from the next one."""

        async def take() -> None:
            self.compiled, self.producers = compiled, dict(producers)
            if not self.row.alive:
                self.row = msgspec.structs.replace(
                    self.row,
                    run=run,
                    fingerprint=compiled.fingerprint,
                    engine=compiled.engine,
                    runtime=compiled.runtime,
                    image=compiled.image.name if compiled.image else "",
                    host=compiled.policy.host,
                    proven=self.row.proven and self.row.fingerprint == compiled.fingerprint,
                )

        await self.within(take)

    async def cached(self, digest: str) -> None:
        """The step's artifact is there already; nothing runs. Raises QwendError where that cannot be recorded."""

        async def take() -> None:
            row = msgspec.structs.replace(
                self.row,
                state="cached",
                artifact=digest,
                fingerprint=self.compiled.fingerprint,
                reason="",
                code="",
                exit=None,
            )
            if row != self.row and not self.row.alive:
                await self.world.record(self._event(self.row, row))
                self.show(row)

        await self.within(take)

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
        for task in self._late:
            task.cancel()
        saving = [self._saving] if self._saving is not None else []
        await asyncio.gather(self._task, *self._late, *saving, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            signal, done = await self._queue.get()
            try:
                await (signal() if callable(signal) else self.handle(signal))
            except Exception as error:
                if not callable(signal):
                    log.exception("%s: %s could not be handled", self.key, type(signal).__name__)
                elif not done.done():
                    done.set_exception(error)
            if not done.done():
                done.set_result(None)

    async def handle(self, signal: Signal) -> None:
        """Decides, makes the change durable, then performs its effects.

        A stop does not wait for the disk. Where the disk takes nothing, what happened is owed to it and life
        goes on; only nothing is started that is not written down: that waits for room.
        """
        if isinstance(signal, Ended) and self._of_another_start(signal):
            return
        before = self.row
        after, effects = decide(before, self.compiled.policy, signal)
        if after != before:
            after = self._stamp(before, after)
            event = self._event(before, after)
            if isinstance(signal, Stop):
                self._save_later(event)
            elif error := await self._save(event):
                if any(isinstance(effect, Spawn) for effect in effects):
                    self._wait_for_room(signal, error)
                    return
                self.world.owe(event)
            self.show(after)
        for effect in effects:
            await self.enactor.perform(effect)

    def show(self, row: Step) -> None:
        """The row is so from now on."""
        self.row = row
        self._changed.set()

    def _of_another_start(self, ended: Ended) -> bool:
        marker = ended.exit.marker
        return bool(marker) and marker != f"{self.world.instance}:{self.row.marker}"

    async def _save(self, event: Event) -> QwendError | None:
        """Records an event behind those of this step that are still on their way; the error if it could not."""
        if self._saving is not None:
            await self._saving
            self._saving = None
        try:
            await self.world.record(event)
        except QwendError as error:
            return error
        return None

    def _save_later(self, event: Event) -> None:
        before = self._saving

        async def save() -> None:
            if before is not None:
                await before
            try:
                await self.world.record(event)
            except QwendError as error:
                log.warning("%s: the stop goes on although it could not be recorded: %s", self.key, error)
                self.world.owe(event)

        self._saving = asyncio.create_task(save())

    def _wait_for_room(self, signal: Signal, error: QwendError) -> None:
        reason = f"waiting for room: {'; '.join(error.lines())}"
        waits = msgspec.structs.replace(self.row, reason=reason)
        self.world.owe(self._event(self.row, waits))
        self.show(waits)
        task = asyncio.create_task(self._post_again(signal))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _post_again(self, signal: Signal) -> None:
        await self.world.clock.sleep(_AGAIN_S)
        self.post(signal)

    def _stamp(self, before: Step, after: Step) -> Step:
        now = self.world.clock.wall()
        if after.state == before.state:
            return after
        if after.state in {"starting", "running"}:
            log = str(self.enactor.log_path())
            return msgspec.structs.replace(
                after, started=now, ready=None, ended=None, log=log, log_from=_size(log), born=""
            )
        if after.state == "ready" and before.state == "starting":
            return msgspec.structs.replace(after, ready=now)
        if after.state in {"stopped", "failed", "succeeded", "cancelled", "backoff"}:
            return msgspec.structs.replace(after, ended=now, handle=None)
        return after

    def _event(self, before: Step, after: Step) -> Event:
        what = after.state if after.state != before.state else "changed"
        if after.exit is not None and after.exit.killed:
            what = _KILLED.get(what, what)
        return Event(
            kind=f"{after.kind}.{what}",
            subject=after.key,
            table="step",
            row=msgspec.to_builtins(after),
            run=after.run,
            reason=after.reason or None,
        )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
