"""macOS has no /proc: what `ps` and `sysctl` print, parsed.

The parsers are pure and tested on any system; only `snapshot`, `row_of` and `boot_id` need a Mac.
"""

from __future__ import annotations

import calendar
import os
import subprocess
import time
from typing import NamedTuple

COLUMNS = "pid=,ppid=,pgid=,stat=,lstart=,command="
_PLAIN = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC0"}


class Row(NamedTuple):
    """One line of `ps`; `started` in seconds since the epoch, `command` as far as it was asked for."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    dead: bool
    command: str


def parse_rows(text: str) -> dict[int, Row]:
    """Reads `ps -o pid=,ppid=,pgid=,stat=,lstart=,command=` as printed with LC_ALL=C and TZ=UTC0.

    `lstart` is five words (`Tue Nov 24 03:29:00 2026`). A line that is not a row (a newline in an argument
    splits one in two) belongs to the row above it; a pid that stands there twice is left out, since such
    a newline could forge a row. The session is not among the columns: macOS prints an address there.
    """
    rows: dict[int, Row] = {}
    twice: set[int] = set()
    last: int | None = None
    for line in text.splitlines():
        row = _parse_row(line.split(None, 9))
        if row is not None:
            if row.pid in rows:
                twice.add(row.pid)
            rows[row.pid] = row
            last = row.pid
        elif last is not None:
            rows[last] = rows[last]._replace(command=f"{rows[last].command}\n{line}")
    return {pid: row for pid, row in rows.items() if pid not in twice}


def _parse_row(words: list[str]) -> Row | None:
    if len(words) < 9:
        return None
    try:
        pid, parent, group = map(int, words[:3])
        moment = time.strptime(" ".join(words[4:9]), "%a %b %d %H:%M:%S %Y")
    except ValueError:
        return None
    command = words[9] if len(words) > 9 else ""
    return Row(pid, parent, group, 0, calendar.timegm(moment), words[3].startswith("Z"), command)


def environment_of(plain: Row, extended: Row) -> str | None:
    """The environment's part of a command printed with `ps -E`, or None if the rows are not one process.

    `-E` puts the environment behind the arguments with nothing between them, so what the same process
    prints without `-E` is taken off: a marker among somebody's *arguments* proves nothing.
    """
    same = (plain.pid, plain.started) == (extended.pid, extended.started)
    if not same or not extended.command.startswith(plain.command):
        return None
    return extended.command[len(plain.command) :]


def snapshot() -> list[tuple[Row, str | None]]:
    """All processes, each with its environment where the system shows it (not for Apple's own programs)."""
    plain = parse_rows(_ps("-axww"))
    extended = parse_rows(_ps("-axwwE"))
    rows = []
    for pid, row in plain.items():
        try:
            row = row._replace(session=os.getsid(pid))
        except OSError:
            continue
        rows.append((row, environment_of(row, extended[pid]) if pid in extended else None))
    return rows


def row_of(pid: int) -> Row | None:
    """One process, or None if there is none."""
    row = parse_rows(_ps("-ww", "-p", str(pid))).get(pid)
    if row is None:
        return None
    try:
        return row._replace(session=os.getsid(pid))
    except OSError:
        return None


def boot_id() -> str:
    """`kern.bootsessionuuid`: new with every boot."""
    return _run("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid").strip()


def _ps(*options: str) -> str:
    return _run("/bin/ps", *options, "-o", COLUMNS)


def _run(*argv: str) -> str:
    # `ps -p` of a pid that is gone exits 1 and prints nothing: the empty answer is the answer.
    done = subprocess.run(argv, env=_PLAIN, capture_output=True, encoding="utf-8", errors="replace")
    return done.stdout
