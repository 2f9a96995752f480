"""Reads a growing, rotating log file for whoever watches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

_CHUNK = 64 * 1024
_WAIT_S = 0.2


async def tail(
    path: Path, follow: bool, lines: int | None, since: float | None, alive: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """The last `lines` of the file (all of them for None), then what is appended while the step lives.

    `since` (seconds since 1970) leaves out a file that has not been written to since then: the lines carry no
    time of their own. A file that was cut (its log is bounded) is read on from its new end.
    """
    position = await asyncio.to_thread(_start, path, lines, since)
    while True:
        living = alive()
        size = await asyncio.to_thread(_size, path)
        if size < position:
            position = 0
        while position < size:
            piece = await asyncio.to_thread(_read, path, position)
            if not piece:
                break
            position += len(piece)
            yield piece
        if not (follow and living):
            return
        await asyncio.sleep(_WAIT_S)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, position: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(position)
            return file.read(_CHUNK)
    except OSError:
        return b""


def _start(path: Path, lines: int | None, since: float | None) -> int:
    """Where to begin: before the last `lines` lines."""
    try:
        found = path.stat()
    except OSError:
        return 0
    if since is not None and found.st_mtime < since:
        return found.st_size
    if lines is None:
        return 0
    if lines <= 0:
        return found.st_size
    position, count = found.st_size, 0
    with open(path, "rb") as file:
        while position > 0:
            step = min(_CHUNK, position)
            file.seek(position - step)
            piece = file.read(step)
            end = len(piece) - 1 if position == found.st_size and piece.endswith(b"\n") else len(piece)
            while (at := piece.rfind(b"\n", 0, end)) >= 0:
                count += 1
                if count == lines:
                    return position - step + at + 1
                end = at
            position -= step
    return 0
