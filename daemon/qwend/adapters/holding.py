"""File locks that a coroutine waits for without blocking its loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

POLL_S = 0.2


def try_hold(path: Path) -> int | None:
    """The descriptor of the lock at `path`, or None while another process or task has it.

    The lock belongs to the open file, so a child that inherits the descriptor holds it too.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextlib.asynccontextmanager
async def hold(path: Path, while_waiting: Callable[[], None] = lambda: None) -> AsyncIterator[int]:
    """Hold the lock at `path`; yields its descriptor. `while_waiting` is called at every try in vain."""
    while (handle := try_hold(path)) is None:
        while_waiting()
        await asyncio.sleep(POLL_S)
    try:
        yield handle
    finally:
        os.close(handle)
