"""The daemon's end of the planner worker: starts it, asks it, and outlives whatever a plugin does to it.

Plugin code runs in the worker only. If one hangs or takes the worker down with it, the worker is killed, started
again without that plugin (until something installed changes), and the call is made once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from qwend.breadcrumb import Breadcrumb, Crumb, new_file
from qwend.errors import QwendError
from qwend.model.artifact import Pin
from qwend.model.event import Event
from qwend.model.plan import Compiled
from qwend.stamps import stamp_all, unchanged
from qwend.wire import (
    HEADER,
    Answer,
    Ask,
    CompileReply,
    CompileRequest,
    EventBatch,
    Hello,
    LoadReply,
    LoadRequest,
    PluginProblem,
    Stamp,
    digest,
    frame,
    lasting,
    length,
    unpack,
)

log = logging.getLogger("qwend.worker")

_POLL_S = 0.25
_TAIL = 4096
_REMEMBERED = 4
_STRIKES = 16
"""More plugins than this are not weeded out in one call."""

T = TypeVar("T")


class _Blame(Exception):
    """A plugin hung or killed the worker."""

    def __init__(self, crumb: Crumb, how: str) -> None:
        super().__init__(how)
        self.plugin = crumb.plugin
        self.reason = f"{how} in {crumb.doing}"


class _Gone(Exception):
    """The worker ended by itself between two calls."""


class _Process:
    """One worker process with its breadcrumb and the end of what it printed."""

    def __init__(self, process: asyncio.subprocess.Process, crumb: Breadcrumb, patience_s: float) -> None:
        self._process = process
        self._crumb = crumb
        self._patience_s = patience_s
        self._tail = b""
        self._drain = asyncio.create_task(self._read_stderr(), name="worker stderr")
        self.hello = Hello("")
        self.watched: tuple[Stamp, ...] = ()

    @staticmethod
    async def start(idle_s: float, patience_s: float, without: Mapping[str, str], deadline_s: float) -> _Process:
        """A worker that said hello. Raises _Blame if a plugin does not let it."""
        with new_file() as file:
            arguments = ["--breadcrumb", str(file.fileno()), "--idle", str(idle_s)]
            arguments += ["--without", msgspec.json.encode(dict(without)).decode()]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # what lies in the working directory is no module
                "-m",
                "qwend.worker",
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(file.fileno(),),
                start_new_session=True,
            )
            worker = _Process(process, Breadcrumb(file.fileno()), patience_s)
        try:
            worker.hello = msgspec.json.decode(await worker.receive(deadline_s), type=Hello)
        except BaseException:
            await worker.kill()
            raise
        worker.watched = stamp_all(worker.hello.watch)
        return worker

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, ask: Ask, deadline_s: float) -> Answer:
        stdin = self._process.stdin
        if stdin is None:
            raise _Gone
        try:
            stdin.write(frame(ask))
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise await self._ended() from None
        answer = msgspec.json.decode(await self.receive(deadline_s), type=Answer)
        if answer.id != ask.id:
            raise QwendError(f"the planner worker answered call {answer.id} instead of {ask.id}", code="worker")
        return answer

    async def receive(self, deadline_s: float) -> bytes:
        """The next frame. Raises _Blame if plugin code takes too long or ends the worker, QwendError if the
        worker itself does."""
        reading = asyncio.create_task(self._read())
        begun = since = time.monotonic()
        seen = self._crumb.read()
        try:
            while not (await asyncio.wait({reading}, timeout=_POLL_S))[0]:
                now, crumb = time.monotonic(), self._crumb.read()
                if crumb != seen:
                    seen, since = crumb, now
                if crumb.inside and now - min(since, begun + deadline_s) > self._patience_s:
                    raise _Blame(crumb, f"no answer within {self._patience_s:g} s")
                if now - begun > deadline_s and not crumb.inside:
                    hint = "the recipe may be too large; qwend daemon log has more"
                    raise QwendError(f"planning took more than {deadline_s:g} s", code="planner-deadline", hint=hint)
            try:
                return reading.result()
            except asyncio.IncompleteReadError:
                raise await self._ended() from None
        finally:
            reading.cancel()

    async def kill(self) -> None:
        """Ends the worker and whatever plugins started in it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._drain.cancel()
        await asyncio.gather(self._drain, return_exceptions=True)
        self._crumb.close()

    async def _read(self) -> bytes:
        stdout = self._process.stdout
        if stdout is None:
            raise _Gone
        return await stdout.readexactly(length(await stdout.readexactly(HEADER)))

    async def _ended(self) -> Exception:
        code = await self._process.wait()
        await asyncio.wait({self._drain}, timeout=1.0)
        crumb = self._crumb.read()
        how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        if crumb.inside:
            return _Blame(crumb, f"ended the planner worker ({how})")
        if code == 0:
            return _Gone()
        last = self._tail.decode("utf-8", "replace").strip().splitlines()
        words = f": {last[-1][:200]}" if last else ""
        return QwendError(f"the planner worker died ({how}){words}", code="worker", hint="qwend daemon log has more")

    async def _read_stderr(self) -> None:
        stderr = self._process.stderr
        while stderr is not None and (chunk := await stderr.read(65536)):
            self._tail = (self._tail + chunk)[-_TAIL:]
            for line in chunk.decode("utf-8", "replace").splitlines()[:50]:
                log.info("%s", line[:500])


class WorkerClient:
    """Asks the planner worker, one call at a time. The worker starts at the first call and goes after `idle_s`
    without one; what it said is remembered as long as nothing that it depends on has changed."""

    def __init__(self, *, idle_s: float = 60.0, patience_s: float = 20.0, deadline_s: float = 120.0) -> None:
        self._idle_s = idle_s
        self._patience_s = patience_s
        self._deadline_s = deadline_s
        self._process: _Process | None = None
        self._hello = Hello("")
        self._watched: tuple[Stamp, ...] | None = None
        self._quarantine: dict[str, str] = {}
        self._lock = asyncio.Lock()
        self._next = 0
        self._loads: OrderedDict[str, LoadReply] = OrderedDict()
        self._compiles: OrderedDict[str, tuple[tuple[Stamp, ...], Compiled]] = OrderedDict()

    @property
    def problems(self) -> tuple[PluginProblem, ...]:
        """Plugins that were left out at the last start of the worker."""
        return self._hello.problems

    async def load(self, request: LoadRequest) -> LoadReply:
        """Reads a recipe: its name and the references that must be pinned. Raises UsageError with all of its
        mistakes."""
        request = msgspec.structs.replace(request, host=lasting(request.host))
        async with self._lock:
            await self._refresh()
            key = digest(request)
            known = _recall(self._loads, key)
            if known is not None and unchanged(known.stamps):
                return known
            answer = msgspec.json.decode(await self._call("load", request, self._deadline_s), type=LoadReply)
            if not any(item.error for source in answer.sources for item in source.candidates):
                _remember(self._loads, key, answer)
            return answer

    async def compile(
        self, request: LoadRequest, pins: Mapping[str, Pin], have: Compiled | None = None
    ) -> Compiled:
        """The recipe on this host with these pins. `have` is what the daemon keeps of it: given back as it is
        if nothing changed."""
        request = msgspec.structs.replace(request, host=lasting(request.host))
        async with self._lock:
            await self._refresh()
            key = digest(request, dict(pins))
            known = _recall(self._compiles, key)
            if known is not None and unchanged(known[0]):
                return known[1]
            had = known[1] if known is not None else have
            wanted = CompileRequest(request, dict(pins), had.digest if had is not None else None)
            reply = msgspec.json.decode(await self._call("compile", wanted, self._deadline_s), type=CompileReply)
            compiled = had if reply.compiled is None else unpack(reply.compiled, reply.contents)
            if compiled is None:
                raise QwendError("the planner worker gave no plan", code="worker")
            _remember(self._compiles, key, (reply.stamps, compiled))
            return compiled

    async def plugins(self) -> list[dict[str, Any]]:
        """Every plugin with its engines, sources and problem, as the API tells of it."""
        return msgspec.json.decode(await self.call("plugins"), type=list[dict[str, Any]])

    async def schema(self) -> dict[str, Any]:
        """JSON Schema of a recipe, the engines' parameters included."""
        return msgspec.json.decode(await self.call("schema"), type=dict[str, Any])

    async def check(self, plugin: str) -> list[dict[str, Any]]:
        """What the testing kit finds wrong with a plugin: objects with `engine`, `level`, `message`, `hint`."""
        return msgspec.json.decode(await self.call("check", {"plugin": plugin}), type=list[dict[str, Any]])

    async def notify(self, events: Sequence[Event]) -> None:
        """Tells observing plugins of committed events. Never raises: they only observe."""
        if self._watched is not None and not self._hello.observers:
            return
        try:
            async with self._lock:
                await self._refresh()
                if self._watched is None:
                    await self._running()
                if self._hello.observers:
                    await self._call("event", EventBatch(tuple(events)), self._deadline_s)
        except QwendError as error:
            log.warning("plugins were not told of %d events: %s", len(events), error)

    async def call(self, verb: str, payload: Any = None, deadline_s: float | None = None) -> bytes:
        """The JSON that `verb` answers with. Raises the QwendError that the worker met, or one that says that the
        worker did not answer within the deadline."""
        async with self._lock:
            await self._refresh()
            return await self._call(verb, payload, deadline_s or self._deadline_s)

    async def close(self) -> None:
        """Ends the worker."""
        async with self._lock:
            await self._stop()

    async def _call(self, verb: str, payload: Any, deadline_s: float) -> bytes:
        for _ in range(_STRIKES):
            self._next += 1
            ask = Ask(self._next, verb, msgspec.Raw(msgspec.json.encode(payload)))
            try:
                answer = await (await self._running()).ask(ask, deadline_s)
            except _Gone:
                await self._stop()
            except _Blame as blame:
                await self._strike(blame)
            except BaseException:  # a half-read answer is of no use to the next call
                await self._stop()
                raise
            else:
                if answer.error is not None:
                    raise QwendError.from_dict(answer.error)
                return bytes(answer.result)
        raise QwendError("the planner worker does not stay up", code="worker", hint="qwend daemon log has more")

    async def _running(self) -> _Process:
        while self._process is None or not self._process.alive:
            await self._stop()
            try:
                self._process = await _Process.start(
                    self._idle_s, self._patience_s, self._quarantine, self._deadline_s
                )
            except _Blame as blame:
                await self._strike(blame)
            except _Gone:
                raise QwendError("the planner worker ended as soon as it started", code="worker") from None
            else:
                self._hello, self._watched = self._process.hello, self._process.watched
        return self._process

    async def _strike(self, blame: _Blame) -> None:
        """Ends the worker; the next one starts without the plugin that is to blame."""
        await self._stop()
        if blame.plugin in self._quarantine or len(self._quarantine) >= _STRIKES:
            raise QwendError(f"plugin {blame.plugin}: {blame.reason}", code="plugin-failed")
        log.warning("plugin %s is left out until it changes: %s", blame.plugin, blame.reason)
        self._quarantine[blame.plugin] = blame.reason

    async def _refresh(self) -> None:
        """An upgrade takes effect now: what was installed, removed or edited is imported anew."""
        if self._watched is None or unchanged(self._watched):
            return
        log.info("installed plugins changed")
        self._quarantine.clear()
        self._loads.clear()
        self._compiles.clear()
        self._watched = None
        await self._stop()

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.kill()


def _recall(memory: OrderedDict[str, T], key: str) -> T | None:
    if key in memory:
        memory.move_to_end(key)
    return memory.get(key)


def _remember(memory: OrderedDict[str, T], key: str, value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
