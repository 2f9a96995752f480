"""What tests of the native supervisor share: a supervisor of their own, processes that say when they are ready."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from qwend.adapters.native.data import ExitRecord, SpawnRequest
from qwend.adapters.native.grip import take
from qwend.adapters.native.identity import ProcessIdentity, identity_of, still_the_same
from qwend.adapters.native.processes import look
from qwend.adapters.native.supervisor import NativeSupervisor
from qwend.errors import Unreachable

INSTANCE = f"test-{secrets.token_hex(8)}"
"""Of this run of the tests alone: another one beside it must not take our processes for its strays."""


@asynccontextmanager
async def a_folder() -> AsyncIterator[Path]:
    """A folder with a short path, so that sockets fit into it."""
    folder = Path(tempfile.mkdtemp(prefix="qwend-t-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def a_supervisor(folder: Path, instance: str = INSTANCE) -> AsyncIterator[NativeSupervisor]:
    """A supervisor that serves; at the end nothing of it is left."""
    native = NativeSupervisor(folder, instance)
    try:
        await native.ensure()
        yield native
    finally:
        await end(native)


async def end(native: NativeSupervisor) -> None:
    """Ends everything under a supervisor, and supervisord itself."""
    with suppress(Unreachable):
        await native.ensure()
        await asyncio.gather(*(native.stop(marker, grace_s=0) for marker in look(native.instance).markers()))
        await native.shutdown_when_empty()
        await native.lost()
    await native.close()


def marker(step: str = "step", generation: int = 1) -> str:
    return f"{INSTANCE}:01RUN:recipe/{step}:{generation}"


def request(folder: Path, *argv: str, step: str = "step", generation: int = 1, **more: Any) -> SpawnRequest:
    """A request with an environment of its own and a log named by the step."""
    fields: dict[str, Any] = {
        "marker": marker(step, generation),
        "argv": argv,
        "env": {"PATH": os.defpath},
        "cwd": folder,
        "log": folder / f"{step}.log",
    }
    return SpawnRequest(**{**fields, **more})


def python(code: str) -> tuple[str, ...]:
    """The command line of a small Python program."""
    return (sys.executable, "-I", "-S", "-c", code)


class Bell:
    """A named pipe by which a process says something to the test: no test waits for a length of time."""

    def __init__(self, folder: Path, name: str = "bell") -> None:
        self.path = folder / name
        os.mkfifo(self.path)

    async def heard(self) -> str:
        """What was said, once it is said and the pipe is closed again."""
        return (await asyncio.wait_for(asyncio.to_thread(self.path.read_text), 30)).strip()


async def exit_of(native: NativeSupervisor, wanted: str) -> ExitRecord:
    """The exit of a marker, when it comes."""

    async def search() -> ExitRecord:
        async for record in native.exits():
            if record.marker == wanted:
                return record
        raise AssertionError("exits never end")

    return await asyncio.wait_for(search(), 30)


async def until_gone(identity: ProcessIdentity) -> None:
    """Returns when a process is dead."""
    if (grip := take(identity)) is not None:
        await asyncio.wait_for(grip.gone(), 30)
        grip.close()
    assert not still_the_same(identity)


@contextmanager
def a_stranger(environment: Mapping[str, str] | None = None) -> Iterator[ProcessIdentity]:
    """A process that is none of the supervisor's."""
    pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], environment or {"A": "stranger"})
    environment_of(pid)  # it is there now, for everybody to see
    identity = identity_of(pid)
    assert identity is not None
    try:
        yield identity
    finally:
        kill(pid)
        os.waitpid(pid, 0)


def kill(pid: int) -> None:
    """kill -9, of a process that the test started."""
    os.kill(pid, signal.SIGKILL)


def environment_of(pid: int) -> Mapping[str, str]:
    """The environment that a process was started with."""
    words = _words(pid, "environ")
    return dict(word.split("=", 1) for word in words)


def command_of(pid: int) -> list[str]:
    """The command line that a process was started with."""
    return _words(pid, "cmdline")


def _words(pid: int, what: str) -> list[str]:
    # The kernel lets the parent go on a moment before it has filled these in.
    while not (text := Path(f"/proc/{pid}/{what}").read_text()):
        os.sched_yield()
    return text.removesuffix("\0").split("\0")


def contents_of(folder: Path) -> bytes:
    """Everything that the files below a folder hold."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
