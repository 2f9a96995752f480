"""Child processes of a build: streamed, logged, ended with their whole group."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import struct
import termios
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

_TAIL = 200
"""Lines of output that are kept for an error."""
_GRACE_S = 5.0
_CHUNK = 1 << 16
_WIDTH = 200
_CLEARED = re.compile(rb".*\x1b\[2K|\x1b\[[0-9;?]*[A-Za-z]", re.DOTALL)
"""All that a terminal program took back, and colours."""


async def run_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    on_line: Callable[[str], None] = lambda _: None,
    on_frame: Callable[[str], None] | None = None,
    held: Sequence[int] = (),
) -> tuple[int, str]:
    """Run to the end; (exit status, the last lines of stdout and stderr together).

    `held` are descriptors that the child keeps open: with the build's lock among them, a child that outlives
    a killed daemon still holds off the next builder. A cancelled caller ends the child's process group.
    With `on_frame` the child writes to a terminal, so that it draws its bars: what it draws goes there raw,
    what it says for good goes to `on_line` and the log as ever.
    """
    reader, writer, terminal = _channel(on_frame is not None)
    try:
        with log.open("ab") as sink:
            sink.write(f"$ {' '.join(argv)}\n".encode())
            sink.flush()
            child = await asyncio.create_subprocess_exec(
                *argv,
                env={**env, "TERM": "xterm-256color"} if terminal else dict(env),
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
                pass_fds=tuple(held),
            )
            os.close(writer)
            writer = -1
            tail: list[str] = []
            try:
                async for line in _lines(reader, on_frame if terminal else None):
                    sink.write(line.encode() + b"\n")
                    sink.flush()
                    tail.append(line)
                    del tail[:-_TAIL]
                    on_line(line)
                return await child.wait(), "\n".join(tail)
            except BaseException:
                await _end(child)
                raise
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def _channel(terminal: bool) -> tuple[int, int, bool]:
    """(end to read, end for the child, whether it is a terminal): a pipe where there are no terminals."""
    if terminal:
        with contextlib.suppress(OSError):
            reader, writer = os.openpty()
            fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 100, _WIDTH, 0, 0))
            os.set_blocking(reader, False)
            return reader, writer, True
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    return reader, writer, False


async def _lines(reader: int, on_frame: Callable[[str], None] | None) -> AsyncIterator[str]:
    """Whole lines as they come; what a terminal program cleared again is not one."""
    rest = b""
    async for chunk in _chunks(reader):
        if on_frame:
            on_frame(chunk.decode("utf-8", "replace"))
        *whole, rest = (rest + chunk).split(b"\n")
        rest = rest[-_CHUNK:]
        for line in whole:
            yield _CLEARED.sub(b"", line).decode("utf-8", "replace").rstrip()
    if last := _CLEARED.sub(b"", rest).decode("utf-8", "replace").strip():
        yield last


async def _chunks(reader: int) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(reader, ready.set)
    try:
        while True:
            await ready.wait()
            ready.clear()
            try:
                chunk = os.read(reader, _CHUNK)
            except BlockingIOError:
                continue
            except OSError:  # a terminal whose last writer is gone reads as EIO on Linux
                return
            if not chunk:
                return
            yield chunk
    finally:
        loop.remove_reader(reader)


async def _end(child: asyncio.subprocess.Process) -> None:
    """End the child's group, politely first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(child.wait()), _GRACE_S)
            return
