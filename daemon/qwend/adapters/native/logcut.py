"""Bounds a log that its writer holds open: the file stays the same file, its oldest lines go."""

from __future__ import annotations

import os

_CHUNK = 1 << 20


def cut(path: str, most: int) -> int:
    """Cuts a log of more than `most` bytes to about half of it, keeping the newest whole lines.

    Returns how many bytes went. The tail slides to the front and the file is truncated behind it, so the
    order of lines stands and a writer that appends (O_APPEND) is never blocked. What is written between the
    last look at the size and the truncation, some microseconds, is lost: the price of not being a pipe.
    Nothing is ever written back to disk just to be thrown away. Raises OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        if size <= most:
            return 0
        source = _next_line(fd, size - most // 2, size)
        target = 0
        while target < most and source < (size := os.fstat(fd).st_size):
            data = os.pread(fd, min(_CHUNK, size - source), source)
            os.pwrite(fd, data, target)
            source, target = source + len(data), target + len(data)
        os.ftruncate(fd, target)
        return source - target
    finally:
        os.close(fd)


def _next_line(fd: int, offset: int, size: int) -> int:
    """Where the first line begins that starts at or behind `offset`; `offset` itself if that is far away."""
    head = os.pread(fd, min(_CHUNK, size - offset + 1), offset - 1)
    found = head.find(b"\n")
    return offset if found < 0 else offset + found
