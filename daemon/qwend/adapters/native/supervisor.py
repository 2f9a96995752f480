"""The daemon's side of the native supervisor: starts, finds, ends and hears of processes.

Starting and exits go through supervisord, which outlives the daemon. Finding and ending do not: they look
at the system itself, so they work when supervisord is dead or stuck.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from qwend.adapters.native import supervisord
from qwend.adapters.native.bell import Bell
from qwend.adapters.native.data import Ensured, ExitRecord, Spawned, SpawnRequest, StopResult
from qwend.adapters.native.ending import OnKill, end_tree
from qwend.adapters.native.grip import take
from qwend.adapters.native.identity import ProcessIdentity, identity_of, still_the_same
from qwend.adapters.native.journal import JournalReader
from qwend.adapters.native.places import Places
from qwend.adapters.native.processes import Known, Process
from qwend.adapters.native.revision import REVISION
from qwend.adapters.native.rpc import NoAnswer, RpcError, call
from qwend.adapters.native.scanner import Scanner
from qwend.errors import QwendError, StepFailed, Unreachable

PROTOCOL = 1
"""What we speak; see rpcinterface.PROTOCOL, which a test holds to this."""

_ANSWERS_WITHIN_S = 10.0
_RETRY_S = 0.05


class NativeSupervisor:
    """Processes of one instance, by marker. Belongs to one event loop; one daemon has one.

    `home` is the daemon's folder; `instance` is the part of every marker before the first colon.
    """

    def __init__(self, home: Path, instance: str) -> None:
        self.instance = instance
        self.places = Places.of(home)
        self._serving: ProcessIdentity | None = None
        self._outdated = False
        self._ensuring = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._scanner = Scanner(instance)
        self._mains: dict[str, ProcessIdentity] = {}
        self._ended: set[str] = set()  # those of them whose exit was told
        self._killed: set[ProcessIdentity] = set()
        self._lost: set[str] = set()  # found, and not yet told to who asks `ensure`
        self._bell = Bell(self.places.wake)

    async def ensure(self) -> Ensured:
        """Makes sure that a supervisord serves, and tells what was found.

        Costs nothing when it does. Call it at start and when `lost` returns: `Ensured.lost` then names the
        markers that have lost their parent, each time once. Raises Unreachable if none can be started, or
        the one that holds the lock is stuck.
        """
        pid, fresh = await self._ensure()
        lost, self._lost = tuple(sorted(self._lost)), set()
        return Ensured(pid, fresh, self._outdated, lost)

    async def _ensure(self) -> tuple[int, bool]:
        async with self._ensuring:
            self._bell.listen()
            serving = self._serving
            serves = serving is not None and still_the_same(serving)
            if serving is not None and serves and not (self._outdated and await self._retire()):
                return serving.pid, False
            found, fresh = await self._find_or_start()
            if found["revision"] != REVISION and not fresh:
                self._attend(found)
                if await self._retire():
                    found, fresh = await self._find_or_start()
                elif found["protocol"] != PROTOCOL:
                    raise Unreachable(
                        f"the running native supervisor (pid {found['pid']}) is of another version of qwend",
                        code="supervisor-outdated",
                        hint="end what runs under it with `qwend down --all`, then try again",
                    )
            self._attend(found)
            for running in await self.processes():
                self._mains[running.marker] = running.identity
            self._lost |= await self._lost_markers(found["pid"])
            return found["pid"], fresh

    async def spawn(self, request: SpawnRequest) -> Spawned:
        """Starts a process; returns when its program runs. A marker starts once: asked again, the running
        process is told. Raises StepFailed with the reason if it cannot be started, Unreachable."""
        if not request.marker.startswith(f"{self.instance}:"):
            raise ValueError(f"the marker {request.marker!r} is not of the instance {self.instance!r}")
        await self._ensure()
        try:
            spawned = Spawned.of(await self._call("spawn", request.plain()))
        except RpcError as error:
            raise _cannot_start(request, error) from None
        self._mains[spawned.marker] = spawned.identity
        return spawned

    async def processes(self) -> tuple[Spawned, ...]:
        """The main processes that run under supervisord. Raises Unreachable."""
        return tuple(Spawned.of(facts) for facts in await self._call("processes"))

    async def alive(self, marker: str) -> bool:
        """Whether anything of the marker's tree lives."""
        return bool(await self._tree(marker))

    async def tree(self, marker: str) -> tuple[ProcessIdentity, ...]:
        """The living processes of a marker, oldest first."""
        return tuple(row.identity for row in await self._tree(marker))

    async def stop(self, marker: str, grace_s: float, on_kill: OnKill | None = None) -> StopResult:
        """Ends the marker's whole tree, and returns when it is verified dead.

        SIGTERM first; after `grace_s` seconds SIGKILL, of which `on_kill` is told before. Many stops at once
        run side by side. Needs neither supervisord nor the disk.
        """

        def killing(identities: tuple[ProcessIdentity, ...]) -> None:
            main = self._mains.get(marker)
            if main in identities:
                self._killed.add(main)
            if on_kill is not None:
                on_kill(identities)

        result = await end_tree(lambda seen: self._tree(marker, seen), grace_s, killing)
        if not result.survivors:
            self._forget(marker)
        return result

    async def exits(self, since: str = "") -> AsyncIterator[ExitRecord]:
        """Every exit behind the cursor `since` (empty: all that is not acknowledged), then each new one as
        it comes. Never ends by itself."""
        self._bell.listen()
        reader = JournalReader(self.places.journal, since)
        while True:
            self._bell.quiet()
            for fields in reader.read():
                record = ExitRecord.of(fields)
                if self._mains.get(record.marker) == record.identity:
                    self._ended.add(record.marker)
                if record.identity in self._killed:
                    record = _not_for_memory(record)
                yield record
            await self._bell.wait()

    async def acknowledge(self, record: ExitRecord) -> None:
        """The exit is recorded: the journal need not keep it (others before it may still be open).

        Call `stop` first where something of the tree may have outlived the main process.
        """
        self._killed.discard(record.identity)
        if self._mains.get(record.marker) == record.identity:
            self._forget(record.marker)
        with suppress(Unreachable):  # it stays longer, which harms nobody
            await self._call("acknowledge", record.cursor)

    async def lost(self) -> None:
        """Returns when the supervisord that serves is gone. Call `ensure` before, and after."""
        if self._watch is not None:
            await asyncio.shield(self._watch)

    async def shutdown_when_empty(self) -> bool:
        """Lets supervisord leave when nothing runs under it; True if that is now."""
        return bool(await self._call("shutdown_when_empty"))

    async def close(self) -> None:
        """Lets go of sockets and watches; supervisord and what runs under it go on."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self._bell.close()

    def _forget(self, marker: str) -> None:
        self._mains.pop(marker, None)
        self._ended.discard(marker)

    async def _find_or_start(self) -> tuple[dict[str, Any], bool]:
        deadline = asyncio.get_running_loop().time() + _ANSWERS_WITHIN_S
        while True:
            lock = supervisord.take_lock(self.places)
            fresh = lock is not None
            if lock is not None:
                await asyncio.to_thread(supervisord.start, self.places, lock)
            try:
                return await call(self.places.socket, "version", timeout_s=_ANSWERS_WITHIN_S), fresh
            except NoAnswer as error:
                # The lock is held but nobody answers: one that just starts or leaves, or one that is stuck.
                if asyncio.get_running_loop().time() > deadline:
                    pid = supervisord.holder(self.places)
                    raise Unreachable(
                        f"the native supervisor (pid {pid}) holds its lock but does not answer: {error}",
                        code="supervisor-stuck",
                        hint=f"end it with `kill -9 {pid}`; services are ended and started once again",
                    ) from None
            await asyncio.sleep(_RETRY_S)

    async def _retire(self) -> bool:
        """Asks an outdated supervisord to leave; waits for it and returns True if it was empty."""
        assert self._serving is not None
        try:
            if not await self._call("shutdown_when_empty"):
                return False
        except Unreachable:
            pass  # it left already
        if (grip := take(self._serving)) is not None:
            await grip.gone()
            grip.close()
        return True

    def _attend(self, found: dict[str, Any]) -> None:
        """Takes note of who serves, and watches it."""
        self._outdated = found["revision"] != REVISION
        identity = identity_of(found["pid"])
        if identity == self._serving:
            return
        self._serving = identity
        # The watch before this one ends by itself, as what it watched has: who waits for it is not cut off.
        self._watch = asyncio.create_task(_gone(identity), name="supervisord")

    async def _lost_markers(self, reaper: int) -> set[str]:
        table = await self._scanner.look()
        running = {running.marker for running in await self.processes()}
        return {
            marker
            for marker, rows in table.markers().items()
            if marker not in running and not any(table.descends(row, reaper) for row in rows)
        }

    async def _tree(self, marker: str, seen: frozenset[ProcessIdentity] = frozenset()) -> list[Process]:
        reaper = self._serving.pid if self._serving is not None else None
        known = Known(self._mains.get(marker), marker in self._ended, reaper, seen)
        return (await self._scanner.look()).tree(marker, known)

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await call(self.places.socket, method, *arguments)
        except NoAnswer as error:
            raise Unreachable(
                f"the native supervisor does not answer: {error}",
                code="supervisor-gone",
                hint="qwend starts a new one by itself; if this comes again, see the log beside the socket",
            ) from None


async def _gone(identity: ProcessIdentity | None) -> None:
    """Returns when the process has ended; lays a zombie to rest if it was our own child."""
    if identity is None or (grip := take(identity)) is None:
        return
    try:
        await grip.gone()
    finally:
        grip.close()
    with suppress(ChildProcessError):
        os.waitpid(identity.pid, os.WNOHANG)  # noqa: ASYNC222 (it does not wait)


def _not_for_memory(record: ExitRecord) -> ExitRecord:
    return msgspec.structs.replace(record, oom=False)


def _cannot_start(request: SpawnRequest, error: RpcError) -> QwendError:
    program = request.argv[0]
    stage = error.code.removeprefix("cannot-start-")
    said = {
        "program": f"cannot run {program}: {error.message}",
        "folder": f"cannot enter the working folder {request.cwd}: {error.message}",
        "log": f"cannot open the log {request.log}: {error.message}",
        "limit": f"cannot set the limits of {program}: {error.message}",
        "secret": f"cannot hand a secret to {program}: {error.message}",
    }
    return StepFailed(said.get(stage, f"cannot start {program}: {error.message}"), code=error.code)
