"""Performs what the lifecycle asks for, and posts back what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from qwend.core.signals import (
    Acquire,
    Commit,
    Effect,
    End,
    Ended,
    Late,
    NotEnded,
    NotStarted,
    Release,
    Spawn,
    Started,
    Timer,
    Watch,
)
from qwend.effects import Runtime
from qwend.errors import QwendError, Unreachable
from qwend.model.service import Exit, Handle
from qwend.reconciler.desk import Needs
from qwend.reconciler.outcome import commit
from qwend.reconciler.places import Places
from qwend.reconciler.watch import watch

if TYPE_CHECKING:
    from qwend.reconciler.mailbox import Mailbox

log = logging.getLogger(__name__)

_AGAIN_S = 5.0
_TOLD_WITHIN_S = 2.0


class Enactor(Places):
    """The hands of one mailbox. Long effects run as tasks and post a signal when they are done."""

    def __init__(self, box: Mailbox) -> None:
        super().__init__(box)
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._exit: Exit | None = None
        self._told = asyncio.Event()

    async def perform(self, effect: Effect) -> None:
        match effect:
            case Acquire(move=move):
                self._acquire(move)
            case Spawn():
                await self._spawn()
            case Watch():
                self._task("watch", watch(self._box))
            case End(grace_s=grace):
                self._unwatch()
                self._task("end", self._end(grace))
            case Commit():
                if "commit" not in self._tasks or self._tasks["commit"].done():
                    self._task("commit", commit(self._box))
            case Release(port=port):
                await self._release(port)
            case Timer(name=name, seconds=seconds):
                self._timer(name, seconds)

    def rearm(self) -> None:
        """Sets the timers of a process that lived on while no daemon watched it, by the clock on the wall: it may
        have jumped, so no timer is longer than it was at first, and one that is due rings at once."""
        row, policy = self._box.row, self._box.compiled.policy
        now = self._box.world.clock.wall()
        if row.state == "ready":
            self._timer("reset", _left(policy.restart.reset_s, row.ready, now))
        elif row.state in {"starting", "running"} and not row.after:
            bound = policy.deadline_s if row.kind == "service" else policy.timeout_s
            self._timer("deadline", None if bound is None else _left(bound, row.started, now))

    def ended(self, exit: Exit) -> asyncio.Future[None] | None:
        """The runtime tells how the process ended. Done when that is decided; None while we are ending it: then the
        ending task reports it."""
        self._exit = exit
        self._told.set()
        ending = self._tasks.get("end")
        return self._post_end(exit) if ending is None or ending.done() else None

    def close(self) -> None:
        for task in [*self._timers.values(), *self._tasks.values()]:
            task.cancel()

    def _unwatch(self) -> None:
        watch = self._tasks.pop("watch", None)
        if watch is not None:
            watch.cancel()

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
        self._unwatch()
        self._box.world.reports.forget(self._box.key)
        await self._box.world.desk.give_back(self._box.key, port)
        await self._clear_away()

    async def _clear_away(self) -> None:
        """What a job that failed has written is of no use to anybody, unless its next attempt goes on from there."""
        row = self._box.row
        if row.kind == "job" and row.state in {"failed", "cancelled"} and not self.launch().resumable:
            try:
                await self._box.world.store.discard(row.fingerprint)
            except (QwendError, OSError) as error:
                log.warning("%s: what it left behind cannot be removed: %s", row.key, error)

    async def _spawn(self) -> None:
        """The row with the new generation is durable by now: a crash from here on leaves a marker to find."""
        box = self._box
        self._exit = None
        self._told.clear()
        ending = self._tasks.pop("end", None)
        if ending is not None and not ending.done():
            ending.cancel()
        try:
            order = await self.order()
            handle = await self._runtime(box.compiled.runtime).start(order)
        except QwendError as error:
            await box.handle(NotStarted("; ".join(error.lines()), error.code))
        except OSError as error:
            await box.handle(NotStarted(f"it cannot be started: {error}", _code(error)))
        except Exception as error:
            log.exception("%s cannot be started", box.key)
            await box.handle(NotStarted(f"it cannot be started: {type(error).__name__}", "bug"))
        else:
            await box.handle(Started(handle))

    async def _end(self, grace: float) -> None:
        handle = self._box.row.handle
        killed = False
        if handle is not None:
            killed = await self._surely_stop(handle, grace)
            with contextlib.suppress(TimeoutError):  # how it ended is told a moment after it is gone
                await asyncio.wait_for(self._told.wait(), _TOLD_WITHIN_S)
        known = self._exit or Exit(marker=handle.marker if handle else "", lost=handle is not None)
        self._post_end(msgspec.structs.replace(known, killed=killed))

    async def _surely_stop(self, handle: Handle, grace: float) -> bool:
        """Ends it, as often as it takes: nothing is called stopped that may still run."""
        box, asked = self._box, self._box.row.reason
        while True:
            try:
                killed = await self._runtime(handle.runtime).stop(handle, grace)
                if box.row.code:  # it could not be ended for a while, and that is over
                    box.post(NotEnded(asked))
                return killed
            except QwendError as error:
                box.post(NotEnded("; ".join(filter(None, (asked, *error.lines()))), error.code))
            except Exception as error:
                log.exception("%s cannot be ended", box.key)
                box.post(NotEnded(f"it cannot be ended: {type(error).__name__}", "bug"))
            await box.world.clock.sleep(_AGAIN_S)

    def _runtime(self, name: str) -> Runtime:
        runtime = self._box.world.runtimes.get(name)
        if runtime is None:
            raise Unreachable(f"the runtime {name} does not answer", hint="qwend doctor says why")
        return runtime

    def _post_end(self, exit: Exit) -> asyncio.Future[None]:
        box = self._box
        self._unwatch()
        how = exit.describe()
        if exit.ok or box.row.after:
            return box.post(Ended(exit, how))
        try:
            words = box.world.reports.last_words(
                self.launch(), str(self.log_path()), self.work().report, box.row.log_from
            )
            taken = words.port_taken or (exit.code is not None and exit.code == self.launch().port_taken_exit)
        except Exception as error:  # a plugin's patterns are not ours
            log.warning("%s: its last words cannot be read: %r", box.key, error)
            return box.post(Ended(exit, how))
        text = f"{how}: {words.text}" if words.text and not exit.lost else how
        return box.post(Ended(exit, text, taken, words.code))


def _code(error: OSError) -> str:
    return "disk-full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""


def _left(seconds: float, since: float | None, now: float) -> float:
    return seconds if since is None else min(seconds, max(0.0, since + seconds - now))
