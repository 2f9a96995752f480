"""Which process a pid meant: a pid alone is reused, so nothing is signalled by pid alone."""

from __future__ import annotations

import functools
import os
import sys
from typing import NamedTuple

from qwend.adapters.native import darwin

_ENV_START = 47
"""Where the address of the environment stands behind the program's name (field 50 of proc(5))."""


class ProcessIdentity(NamedTuple):
    """One process, for as long as this machine's boot id stands.

    `started` is the kernel's start time: clock ticks since boot on Linux (field 22 of /proc/PID/stat, see
    proc(5)), seconds since the epoch on macOS (`ps -o lstart`).
    """

    pid: int
    started: int
    boot: str

    @property
    def since(self) -> str:
        """Start time and boot id as one word, to be stored beside the pid."""
        return f"{self.started}@{self.boot}"

    @classmethod
    def parse(cls, pid: int, since: str) -> ProcessIdentity:
        """The inverse of `since`. Raises ValueError for text that `since` never gives."""
        started, at, boot = since.partition("@")
        if not at:
            raise ValueError(f"not a start time with a boot id: {since!r}")
        return cls(pid, int(started), boot)


class Stat(NamedTuple):
    """The part of a process's kernel row that qwend looks at.

    `dead` is a zombie or one being removed; `bare` is one that has no environment, not even an empty one: a
    thread of the kernel, or a process in the middle of exec.
    """

    parent: int
    group: int
    session: int
    started: int
    dead: bool
    bare: bool = False


@functools.cache
def boot_id() -> str:
    """A word that changes with every boot."""
    if sys.platform == "darwin":
        return darwin.boot_id()
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def read_file(path: str) -> bytes:
    """A file of /proc, read whole. Raises OSError; ProcessLookupError where the process just went."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 1 << 16)
        # One read may bring less than all of a long environment; the end is an empty read.
        while more := os.read(fd, 1 << 16):
            data += more
        return data
    finally:
        os.close(fd)


def parse_stat(text: bytes) -> Stat:
    """Reads /proc/PID/stat. The program's name, in brackets, may itself hold brackets and spaces."""
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        dead=fields[0] in b"ZXx",
        bare=len(fields) > _ENV_START and fields[_ENV_START] == b"0",
    )


def stat_of(pid: int) -> Stat | None:
    """The process's row, or None if there is no such process."""
    if sys.platform == "darwin":
        row = darwin.row_of(pid)
        return None if row is None else Stat(row.parent, row.group, row.session, row.started, row.dead)
    try:
        return parse_stat(read_file(f"/proc/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def identity_of(pid: int) -> ProcessIdentity | None:
    """Who has this pid now (a zombie counts: it still holds the pid), or None."""
    stat = stat_of(pid)
    return None if stat is None else ProcessIdentity(pid, stat.started, boot_id())


def still_the_same(identity: ProcessIdentity) -> bool:
    """Whether the pid still means the same process and that process lives. A zombie does not live."""
    if identity.boot != boot_id():
        return False
    stat = stat_of(identity.pid)
    return stat is not None and not stat.dead and stat.started == identity.started
