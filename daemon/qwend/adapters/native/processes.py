"""The processes of this machine at one moment, and which of them belong to a step.

A step's processes carry its marker in their environment, which every child inherits, `setsid` and double
forks or not. Where a program wiped its environment block (some set their title there), kinship finds it.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from qwend.adapters.native import darwin
from qwend.adapters.native.identity import ProcessIdentity, boot_id, parse_stat, read_file

MARKER = "QWEND_MARKER"
"""The variable that holds a step's marker."""

KEEP_ENVIRONMENT = {"SPT_NOENV": "1"}
"""Tells the setproctitle package (vLLM uses it) to leave the environment block, so the marker, alone."""


_PF_KTHREAD = 0x0020_0000  # in the flags of /proc/PID/stat; include/linux/sched.h
_EXEC_LOOKS, _EXEC_TAKES_S = 50, 0.001


class Process(NamedTuple):
    """A living process; `marker` is None where it has none of this instance."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    marker: str | None

    @property
    def identity(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.started, boot_id())


class Known(NamedTuple):
    """What is known of a step besides its marker.

    `main` is the process that was started, which leads a session; `ended` tells that its exit was seen;
    `reaper` is supervisord, which has no children but steps and their orphans; `seen` were members before.
    """

    main: ProcessIdentity | None = None
    ended: bool = False
    reaper: int | None = None
    seen: frozenset[ProcessIdentity] = frozenset()


class ProcessTable:
    """All living processes, by pid. Zombies are not among them."""

    def __init__(self, rows: Iterable[Process]) -> None:
        self.rows = {row.pid: row for row in rows}
        self._children: dict[int, list[Process]] = {}
        self._sessions: dict[int, list[Process]] = {}
        self._marked: dict[str, list[Process]] = {}
        for row in self.rows.values():
            self._children.setdefault(row.parent, []).append(row)
            self._sessions.setdefault(row.session, []).append(row)
            if row.marker is not None:
                self._marked.setdefault(row.marker, []).append(row)

    def markers(self) -> dict[str, list[Process]]:
        """The marked processes, by marker."""
        return self._marked

    def tree(self, marker: str, known: Known | None = None) -> list[Process]:
        """Every living process of a step, oldest first.

        These are the marked ones, the main process and its session, orphans of that session that the reaper
        took in, what was seen before, and the descendants of all of these, except where another step's
        marker begins. Never the process that asks, never the reaper.
        """
        known = known or Known()
        seeds = [*self._marked.get(marker, ()), *self._session(known)]
        seeds += [row for identity in known.seen if (row := self._find(identity)) is not None]
        found: dict[int, Process] = {}
        while seeds:
            row = seeds.pop()
            if row.pid not in found and row.marker in (None, marker):
                found[row.pid] = row
                seeds += self._children.get(row.pid, ())
        for spared in (os.getpid(), known.reaper):
            found.pop(spared or 0, None)
        return sorted(found.values(), key=lambda row: (row.started, row.pid))

    def _session(self, known: Known) -> list[Process]:
        """What of the main process's session is surely its: all while it lives, then what the reaper has."""
        if known.main is None:
            return []
        members = self._sessions.get(known.main.pid, [])
        main = None if known.ended else self._find(known.main)
        # That it leads its session tells it from a stranger that got its pid in the same tick of the clock.
        if main is not None and main.session == main.pid:
            return members
        return [row for row in members if row.parent == known.reaper]

    def _find(self, identity: ProcessIdentity) -> Process | None:
        row = self.rows.get(identity.pid)
        return row if row is not None and row.identity == identity else None

    def descends(self, row: Process, ancestor: int) -> bool:
        """Whether `ancestor` is among the row's parents."""
        seen: set[int] = set()
        above: Process | None = row
        while above is not None and above.pid not in seen:
            seen.add(above.pid)
            if above.parent == ancestor:
                return True
            above = self.rows.get(above.parent)
        return False


def main_of(tree: list[Process]) -> Process | None:
    """The process that the others of a tree come from: the oldest whose parent is not in the tree."""
    pids = {row.pid for row in tree}
    return next((row for row in tree if row.parent not in pids), None)


def look(instance: str) -> ProcessTable:
    """All processes now, with the markers of one instance. Milliseconds on Linux; blocks."""
    if sys.platform == "darwin":
        return ProcessTable(_from_ps(instance, darwin.snapshot()))
    return ProcessTable(_from_proc(instance))


def _from_proc(instance: str) -> Iterable[Process]:
    name_of_marker = f"\0{MARKER}=".encode()
    wanted = name_of_marker + os.fsencode(instance) + b":"
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = parse_stat(read_file(f"/proc/{name}/stat"))
        except OSError:
            continue  # it went between the listing and now
        if stat.dead:
            continue
        environment = b"\0" + _environment(name)
        at = environment.find(wanted)
        value = environment[at + len(name_of_marker) :].partition(b"\0")[0] if at >= 0 else None
        marker = os.fsdecode(value) if value is not None else None
        yield Process(int(name), stat.parent, stat.group, stat.session, stat.started, marker)


def _environment(pid: str) -> bytes:
    """Empty for a thread of the kernel, for another user's process and for one that just went."""
    try:
        for _ in range(_EXEC_LOOKS):
            environment = read_file(f"/proc/{pid}/environ")
            if environment or not _in_exec(pid):
                return environment
            time.sleep(_EXEC_TAKES_S)
    except OSError:
        pass
    return b""


def _in_exec(pid: str) -> bool:
    """Whether the process is in the middle of exec, where for a moment it has no environment yet."""
    text = read_file(f"/proc/{pid}/stat")
    kernel = int(text[text.rindex(b")") + 2 :].split()[6]) & _PF_KTHREAD
    return not kernel and parse_stat(text).bare


def _from_ps(instance: str, rows: Iterable[tuple[darwin.Row, str | None]]) -> Iterable[Process]:
    wanted = re.compile(rf"(?:\A|\s){MARKER}=({re.escape(instance)}:\S+)")
    for row, environment in rows:
        if row.dead:
            continue
        found = wanted.search(environment) if environment else None
        yield Process(row.pid, row.parent, row.group, row.session, row.started, found[1] if found else None)


def with_marker(environment: Mapping[str, str], marker: str) -> dict[str, str]:
    """A step's environment as it is started with."""
    return {**KEEP_ENVIRONMENT, **environment, MARKER: marker}
