"""The daemon's end of the planner worker: starts it, asks it, and outlives whatever a plugin does to it.

Plugin code runs in the worker only. If one hangs or takes the worker down with it, the worker is killed, started
again without that plugin (until something installed changes), and the call is made once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from qwend.errors import QwendError
from qwend.model.artifact import Pin
from qwend.model.event import Event
from qwend.model.image_file import OptionValue
from qwend.model.plan import Compiled
from qwend.worker.process import Blame, Gone, WorkerProcess
from qwend.worker.stamps import unchanged
from qwend.worker.wire import (
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
    lasting,
    unpack,
)

log = logging.getLogger("qwend.worker")

_REMEMBERED = 4
_STRIKES = 16
"""More plugins than this are not weeded out in one call."""

T = TypeVar("T")


class WorkerClient:
    """Asks the planner worker, one call at a time. The worker starts at the first call and goes after `idle_s`
    without one; what it said is remembered as long as nothing that it depends on has changed."""

    def __init__(
        self,
        *,
        idle_s: float = 60.0,
        patience_s: float = 20.0,
        deadline_s: float = 120.0,
        build_options: Mapping[str, OptionValue] | None = None,
    ) -> None:
        """`build_options` are what the user settled for every image that has them."""
        self._build_options = dict(build_options or {})
        self._idle_s = idle_s
        self._patience_s = patience_s
        self._deadline_s = deadline_s
        self._process: WorkerProcess | None = None
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
            reply = msgspec.json.decode(
                await self._call("compile", wanted, self._deadline_s), type=CompileReply
            )
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
        """What the testing kit finds wrong with a plugin: objects with `engine`, `key`, `level`, `message`, `hint`."""
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
            except Gone:
                await self._stop()
            except Blame as blame:
                await self._strike(blame)
            except BaseException:  # a half-read answer is of no use to the next call
                await self._stop()
                raise
            else:
                if answer.error is not None:
                    raise QwendError.from_dict(answer.error)
                return bytes(answer.result)
        raise QwendError(
            "the planner worker does not stay up",
            code="worker",
            hint="the log that qwend daemon status names has more",
        )

    async def _running(self) -> WorkerProcess:
        while self._process is None or not self._process.alive:
            await self._stop()
            try:
                self._process = await WorkerProcess.start(
                    self._idle_s, self._patience_s, self._quarantine, self._build_options, self._deadline_s
                )
            except Blame as blame:
                await self._strike(blame)
            except Gone:
                raise QwendError("the planner worker ended as soon as it started", code="worker") from None
            else:
                self._hello, self._watched = self._process.hello, self._process.watched
        return self._process

    async def _strike(self, blame: Blame) -> None:
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
