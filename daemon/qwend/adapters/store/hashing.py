"""Reads files: sha256 in a stream, two files at a time, and trees of the user's own files."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from qwend.adapters.store.layout import escape
from qwend.adapters.store.stat_cache import StatCache
from qwend.errors import StepFailed, UsageError
from qwend.model.artifact import StoredFile

BLOCK = 1 << 20
AT_ONCE = 2
"""Files that are read at a time: enough to keep one disk busy, and a CPU left for others."""
_PASSED_OVER = {".git", ".DS_Store"}
"""In a user's folder: a clone's own history changes with every look at it and is no part of a model."""

OnBytes = Callable[[int], None]


class Found(NamedTuple):
    """A file: `path` relative to the tree as the system knows it, `real` where its content lies."""

    path: str
    real: str


class Changed(Exception):
    """A file was written to while it was read; the argument is its path."""


class Hasher:
    """Digests of files by way of the cache."""

    def __init__(self, cache: StatCache) -> None:
        self.cache = cache
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sha256")

    def file(self, path: str, tell: OnBytes | None = None, *, fresh: bool = False) -> tuple[str, int]:
        """sha256 (hex) and size of one file; `fresh` reads it whatever the cache says. Raises Changed, OSError."""
        known = None if fresh else self.cache.get(os.stat(path))
        if known is not None:
            size = os.stat(path).st_size
            if tell:
                tell(size)
            return known, size
        begun = time.time_ns()
        digest, status = read_digest(path, tell)
        self.cache.put(status, digest, begun)
        return digest, status.st_size

    def files(self, found: Iterable[Found], tell: OnBytes | None = None) -> list[StoredFile]:
        """All of a tree, in its order; two are read at a time."""
        listed = list(found)
        digests = self._threads.map(lambda one: self.file(one.real, tell), listed)
        return [
            StoredFile(escape(one.path), size, digest)
            for one, (digest, size) in zip(listed, digests, strict=True)
        ]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def read_digest(path: str, tell: OnBytes | None = None) -> tuple[str, os.stat_result]:
    """sha256 (hex) of a file and its status, which was the same before and after. Raises Changed, OSError.

    The last part of the path is not followed: links were resolved before, and one that is there now was swapped in.
    """
    total = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK))
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb", buffering=0) as file:
        before = os.fstat(fd)
        while count := file.readinto(buffer):
            total.update(buffer[:count])
            if tell:
                tell(count)
        after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Changed(path)
    return total.hexdigest(), after


def user_files(path: str) -> list[Found]:
    """The files of what a user refers to: one file, or a folder with all below it, sorted.

    Links are followed: a hub's cache is made of them. Raises UsageError for what is missing, unreadable or
    neither file nor folder, for a link that leads nowhere, and for folders that contain themselves.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"cannot read {escape(path)}: {error.strerror}", code="no-such-file") from None
    if stat.S_ISREG(mode):
        return [Found(os.path.basename(os.path.abspath(path)), os.path.realpath(path))]
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{escape(path)} is neither a file nor a folder", code="not-a-file")
    found = sorted(_below(path, "", (os.path.realpath(path),)))
    if not found:
        raise UsageError(f"{escape(path)} is an empty folder", code="empty-folder")
    return found


def _below(folder: str, prefix: str, within: tuple[str, ...]) -> Iterator[Found]:
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError as error:
        raise UsageError(f"cannot read {escape(folder)}: {error.strerror}", code="unreadable") from None
    for entry in listed:
        path = f"{prefix}{entry.name}"
        if entry.name in _PASSED_OVER:
            continue
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            why = "a link that leads nowhere" if entry.is_symlink() else error.strerror
            raise UsageError(f"cannot read {escape(entry.path)}: {why}", code="unreadable") from None
        real = os.path.realpath(entry.path)
        if stat.S_ISDIR(mode):
            if real in within:
                raise UsageError(
                    f"{escape(entry.path)} leads back to a folder that it is in", code="link-cycle"
                )
            yield from _below(entry.path, f"{path}/", (*within, real))
        elif stat.S_ISREG(mode):
            yield Found(path, real)
        else:
            raise UsageError(f"{escape(entry.path)} is neither a file nor a folder", code="not-a-file")


def still_written(error: Changed) -> StepFailed:
    """The error for a file that changes under our eyes."""
    return StepFailed(
        f"{escape(str(error))} was written to while it was read",
        code="still-written",
        hint="something else still works on it: try again when it is done",
    )
