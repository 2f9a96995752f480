"""One planner worker process: its pipes, its breadcrumb, and the end of what it printed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping

import msgspec

from qwend.errors import QwendError
from qwend.model.image_file import OptionValue
from qwend.worker.breadcrumb import Breadcrumb, Crumb, new_file
from qwend.worker.stamps import stamp_all
from qwend.worker.wire import HEADER, Answer, Ask, Hello, Stamp, frame, length

log = logging.getLogger("qwend.worker")

MORE = "the log that qwend daemon status names has more"

_POLL_S = 0.25
_TAIL = 4096


class Blame(Exception):
    """A plugin hung or killed the worker."""

    def __init__(self, crumb: Crumb, how: str) -> None:
        super().__init__(how)
        self.plugin = crumb.plugin
        self.reason = f"{how} in {crumb.doing}"


class Gone(Exception):
    """The worker ended by itself between two calls."""


class WorkerProcess:
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
    async def start(
        idle_s: float,
        patience_s: float,
        without: Mapping[str, str],
        build_options: Mapping[str, OptionValue],
        deadline_s: float,
    ) -> WorkerProcess:
        """A worker that said hello. Raises Blame if a plugin does not let it."""
        with new_file() as file:
            arguments = ["--breadcrumb", str(file.fileno()), "--idle", str(idle_s)]
            arguments += ["--without", msgspec.json.encode(dict(without)).decode()]
            arguments += ["--build-options", msgspec.json.encode(dict(build_options)).decode()]
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
            worker = WorkerProcess(process, Breadcrumb(file.fileno()), patience_s)
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

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, ask: Ask, deadline_s: float) -> Answer:
        stdin = self._process.stdin
        if stdin is None:
            raise Gone
        try:
            stdin.write(frame(ask))
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise await self._ended() from None
        answer = msgspec.json.decode(await self.receive(deadline_s), type=Answer)
        if answer.id != ask.id:
            raise QwendError(
                f"the planner worker answered call {answer.id} instead of {ask.id}", code="worker"
            )
        return answer

    async def receive(self, deadline_s: float) -> bytes:
        """The next frame. Raises Blame if plugin code takes too long or ends the worker, QwendError if the
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
                    raise Blame(crumb, f"no answer within {self._patience_s:g} s")
                if now - begun > deadline_s and not crumb.inside:
                    hint = f"the recipe may be too large; {MORE}"
                    raise QwendError(
                        f"planning took more than {deadline_s:g} s", code="planner-deadline", hint=hint
                    )
            try:
                return reading.result()
            except asyncio.IncompleteReadError:
                raise await self._ended() from None
        finally:
            reading.cancel()

    async def kill(self) -> None:
        """Ends the worker and whatever plugins started in it."""
        if self.alive:  # not through asyncio's kill, which may reap the child before its watcher does
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._drain.cancel()
        await asyncio.gather(self._drain, return_exceptions=True)
        self._crumb.close()

    async def _read(self) -> bytes:
        stdout = self._process.stdout
        if stdout is None:
            raise Gone
        return await stdout.readexactly(length(await stdout.readexactly(HEADER)))

    async def _ended(self) -> Exception:
        code = await self._process.wait()
        await asyncio.wait({self._drain}, timeout=1.0)
        crumb = self._crumb.read()
        how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        if crumb.inside:
            return Blame(crumb, f"ended the planner worker ({how})")
        if code == 0:
            return Gone()
        last = self._tail.decode("utf-8", "replace").strip().splitlines()
        words = f": {last[-1][:200]}" if last else ""
        return QwendError(f"the planner worker died ({how}){words}", code="worker", hint=MORE)

    async def _read_stderr(self) -> None:
        stderr = self._process.stderr
        while stderr is not None and (chunk := await stderr.read(65536)):
            self._tail = (self._tail + chunk)[-_TAIL:]
            for line in chunk.decode("utf-8", "replace").splitlines()[:50]:
                log.info("%s", line[:500])
