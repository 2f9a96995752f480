"""Whether the kernel killed for memory: it tells only by counters."""

from __future__ import annotations

import time
from pathlib import Path

_RECENT_S = 15.0
"""Freeing a large process takes a while between the kernel's kill and the moment we can reap it."""


class OomWatch:
    """Counts the kernel's kills for memory, in our own cgroup where it has such a counter, else in all.

    Source: `oom_kill` in memory.events (cgroup v2, kernel documentation), else in /proc/vmstat (since 4.13).
    """

    def __init__(self) -> None:
        self._file = _counter_file()
        self._count: int | None = None
        self._count = self._read()
        self._moved: float | None = None

    def look(self) -> None:
        """To be called about once a second, so that a kill is given to the exits that are near it."""
        count = self._read()
        if count != self._count:
            self._count = count
            self._moved = time.monotonic()

    def recent(self) -> bool | None:
        """Whether the kernel killed for memory just now; None where it has no counter."""
        if self._count is None:
            return None
        self.look()
        return self._moved is not None and time.monotonic() - self._moved < _RECENT_S

    def _read(self) -> int | None:
        if self._file is None:
            return None
        try:
            return parse_oom_kill(self._file.read_text())
        except OSError:
            return self._count


def parse_oom_kill(text: str) -> int | None:
    """The number in the line `oom_kill N`, or None if there is no such line."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill":
            return int(number)
    return None


def _counter_file() -> Path | None:
    try:
        own = Path("/proc/self/cgroup").read_text()
    except OSError:
        return None
    unified = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "/")
    events = Path(f"/sys/fs/cgroup{unified}") / "memory.events"
    everywhere = Path("/proc/vmstat")
    return next((file for file in (events, everywhere) if file.exists()), None)
