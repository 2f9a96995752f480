"""The native runtime: a Launch as a process of this machine, in its image's locked environment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from qwend.adapters.native.child import FIRST_SECRET
from qwend.adapters.native.data import ExitRecord, Spawned, SpawnRequest, secret_paths
from qwend.adapters.native.environment import environment
from qwend.adapters.native.journal import JournalReader
from qwend.adapters.native.listening import listens
from qwend.adapters.native.supervisor import NativeSupervisor
from qwend.adapters.volume import disk_full, is_full
from qwend.core.binding import Places, bind
from qwend.effects import Order, Screen, Terminal
from qwend.errors import QwendError, StepFailed
from qwend.model.service import Exit, Handle

log = logging.getLogger(__name__)

_LEFTOVERS_S = 2.0
_AGAIN_S = 1.0
_TERMINAL_SECRET = 64
"""The first descriptor of an interactive step's secrets: above those that its client has open."""


class NativeRuntime:
    """`effects.Runtime` over the native supervisor."""

    name = "native"

    def __init__(self, home: Path, instance: str, settings_env: Mapping[str, str] | None = None) -> None:
        self._supervisor = NativeSupervisor(home, instance)
        self._settings_env = dict(settings_env or {})
        self._records: dict[str, ExitRecord] = {}
        self._running: set[str] = set()
        self._stopped: set[str] = set()
        self._exits: asyncio.Queue[Exit] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._telling: set[asyncio.Task[None]] = set()

    async def start(self, order: Order) -> Handle:
        try:
            argv, env = await asyncio.to_thread(self._bound, order)
        except OSError as error:
            if is_full(error):
                raise disk_full(order.work, f"the start of {order.identity.key}") from None
            raise
        spawned = await self._supervisor.spawn(
            SpawnRequest(
                marker=order.identity.marker,
                argv=argv,
                env=env,
                cwd=Path(order.scratch or order.work),
                log=Path(order.log),
                secrets=order.secrets,
                umask=0o077,
            )
        )
        self._running.add(spawned.marker)
        return _handle(spawned)

    async def stop(self, handle: Handle, grace_s: float) -> bool:
        self._stopped.add(handle.marker)
        result = await self._supervisor.stop(handle.marker, grace_s)
        if result.survivors:
            self._stopped.discard(handle.marker)
            pids = ", ".join(str(identity.pid) for identity in result.survivors)
            raise StepFailed(
                f"process {pids} does not end, not even by SIGKILL",
                code="cannot-kill",
                hint="it waits for the kernel (a dead disk or driver)",
            )
        return result.killed

    async def living(self) -> dict[str, Handle]:
        """What runs under the supervisor. What lost its parent is ended first: nobody would learn how it
        ends (a service is then started again, a job runs again)."""
        ensured = await self._supervisor.ensure()
        await self._end_lost(ensured.lost)
        self._watch()
        handles = {running.marker: _handle(running) for running in await self._supervisor.processes()}
        self._running |= handles.keys()
        return handles

    async def backlog(self) -> list[Exit]:
        reader = JournalReader(self._supervisor.places.journal, "")
        records = await asyncio.to_thread(lambda: [ExitRecord.of(fields) for fields in reader.read()])
        return [self._exit(record) for record in records]

    async def exits(self) -> AsyncIterator[Exit]:
        while True:
            yield await self._exits.get()

    async def acknowledge(self, ended: Exit) -> None:
        self._running.discard(ended.marker)
        self._stopped.discard(ended.marker)
        record = self._records.pop(ended.marker, None)
        if record is not None:
            await self._supervisor.acknowledge(record)

    async def listens(self, handle: Handle, port: int) -> bool | None:
        tree = await self._supervisor.tree(handle.marker)
        return await asyncio.to_thread(listens, [identity.pid for identity in tree], port)

    async def attach(self, order: Order, screen: Screen) -> Terminal:
        """The process will be the client's own child: no marker, nothing of it is ours to end."""
        argv, env = await asyncio.to_thread(self._bound, order, _TERMINAL_SECRET)
        env["TERM"] = screen.term
        secrets = tuple(
            (_TERMINAL_SECRET + n, order.secrets[name]) for n, name in enumerate(sorted(order.secrets))
        )
        return Terminal(argv, env, secrets=secrets)

    async def detach(self, order: Order) -> None:
        """A native process ends with its client's terminal."""

    async def close(self) -> None:
        for task in [*self._tasks, *self._telling]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._telling, return_exceptions=True)
        if self._tasks:
            # With nothing under it supervisord has no reason to stay; else it leaves when the last step ends.
            with contextlib.suppress(QwendError):
                await self._supervisor.shutdown_when_empty()
        await self._supervisor.close()

    def _watch(self) -> None:
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._read_journal(), name="native exits"),
                asyncio.create_task(self._outlive_supervisor(), name="native supervisor"),
            ]

    async def _read_journal(self) -> None:
        async for record in self._supervisor.exits():
            telling = asyncio.create_task(self._tell(record))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def _tell(self, record: ExitRecord) -> None:
        """A step has ended when its whole tree has: what its main process left behind goes first. Where we end the
        tree ourselves that is seen to already."""
        try:
            if record.marker not in self._stopped:
                await self._supervisor.stop(record.marker, _LEFTOVERS_S)
        except QwendError as error:
            log.warning("what %s left behind could not be ended: %s", record.marker, error)
        self._exits.put_nowait(self._exit(record))

    async def _outlive_supervisor(self) -> None:
        """Starts another supervisor when this one is gone, and tells which steps went with it."""
        while True:
            await self._supervisor.lost()
            try:
                ensured = await self._supervisor.ensure()
            except QwendError as error:
                log.error("no native supervisor: %s", error)
                await asyncio.sleep(_AGAIN_S)
                continue
            await self._end_lost(ensured.lost)
            for marker in list(self._running):
                if marker not in self._records and not await self._supervisor.alive(marker):
                    self._exits.put_nowait(Exit(marker, lost=True))

    async def _end_lost(self, markers: tuple[str, ...]) -> None:
        await asyncio.gather(*(self._supervisor.stop(marker, 5.0) for marker in markers))
        for marker in markers:
            self._running.discard(marker)
            self._exits.put_nowait(Exit(marker, lost=True))

    def _exit(self, record: ExitRecord) -> Exit:
        self._records[record.marker] = record
        return Exit(
            marker=record.marker,
            code=record.code,
            signal=record.signal,
            oom=bool(record.oom),
            peak=record.max_rss,
            cpu_s=record.cpu_s,
            at=record.ended,
        )

    def _bound(
        self, order: Order, first_secret: int = FIRST_SECRET
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        work = Path(order.work)
        drivers = work / "drivers"
        for folder in (drivers, Path(order.log).parent, Path(order.scratch or order.work)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in order.launch.files:
            (drivers / file.name).write_text(file.content, encoding="utf-8")
        places = Places(
            inputs=order.inputs,
            contents={name: _listing(folder) for name, folder in order.inputs.items()},
            output=order.output or str(work / "out"),
            scratch=order.scratch or str(work),
            drivers=str(drivers),
            secrets=secret_paths(order.secrets, first_secret),
            image=order.image.location,
            bind=order.host,
            port=order.port,
            threads=order.threads,
        )
        argv, env = bind(order.launch, places)
        return argv, {**environment(order, self._settings_env), **env}


def _handle(spawned: Spawned) -> Handle:
    identity = spawned.identity
    return Handle(
        "native", spawned.marker, str(identity.pid), identity.pid, f"{identity.started}@{identity.boot}"
    )


def _listing(folder: str) -> tuple[str, ...]:
    root = Path(folder)
    found: list[str] = []
    with contextlib.suppress(OSError):
        for parent, _, names in os.walk(root, followlinks=True):
            found.extend(str(Path(parent, name).relative_to(root)) for name in names)
    return tuple(sorted(found))
