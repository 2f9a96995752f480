"""Who listens on a TCP port, as the kernel tells it (Linux). Elsewhere it cannot be told cheaply."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

_LISTEN = "0A"


def listens(pids: Iterable[int], port: int) -> bool | None:
    """Whether one of the processes holds a listening TCP socket on `port`; None where nobody can tell."""
    if sys.platform != "linux":
        return None
    inodes = _listening(port)
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return any(_holds(pid, wanted) for pid in pids)


def _listening(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                next(file)
                rows = [line.split() for line in file]
        except OSError:
            continue
        for row in rows:
            if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port:
                found.add(row[9])
    return found


def _holds(pid: int, wanted: set[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if os.readlink(f"{folder}/{descriptor}") in wanted:
                return True
        except OSError:
            continue
    return False
