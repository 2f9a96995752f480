"""The parsers for macOS, on what its `ps` prints (LC_ALL=C, TZ=UTC0)."""

from __future__ import annotations

from qwend.adapters.native.darwin import environment_of, parse_rows
from qwend.adapters.native.processes import _from_ps

PLAIN = """\
    1     0     1 Ss   Mon Nov 23 08:00:01 2026     /sbin/launchd
  512     1   512 Ss   Tue Nov 24 03:29:00 2026     /usr/local/bin/python -m server --name a b
  513   512   512 S    Tue Nov  3 03:29:07 2026     /bin/sh -c echo QWEND_MARKER=i:forged
  514   512   512 Z    Tue Nov 24 03:29:07 2026     (sleep)
"""
EXTENDED = """\
    1     0     1 Ss   Mon Nov 23 08:00:01 2026     /sbin/launchd
  512     1   512 Ss   Tue Nov 24 03:29:00 2026     /usr/local/bin/python -m server --name a b PATH=/bin QWEND_MARKER=i:r:a/b:1 LANG=C
  513   512   512 S    Tue Nov  3 03:29:07 2026     /bin/sh -c echo QWEND_MARKER=i:forged HOME=/Users/u
  514   512   512 Z    Tue Nov 24 03:29:07 2026     (sleep)
"""  # noqa: E501


def markers() -> dict[int, str | None]:
    plain, extended = parse_rows(PLAIN), parse_rows(EXTENDED)
    rows = [(row, environment_of(row, extended[pid])) for pid, row in plain.items()]
    return {process.pid: process.marker for process in _from_ps("i", rows)}


def test_a_row_tells_kinship_state_and_start() -> None:
    row = parse_rows(PLAIN)[513]
    assert (row.pid, row.parent, row.group, row.dead) == (513, 512, 512, False)
    assert row.started == 1793676547  # Tue Nov  3 03:29:07 2026 UTC
    assert parse_rows(PLAIN)[514].dead


def test_the_marker_is_read_from_the_environment_and_never_from_arguments() -> None:
    assert markers() == {1: None, 512: "i:r:a/b:1", 513: None}


def test_a_newline_in_an_argument_makes_no_new_process() -> None:
    rows = parse_rows(PLAIN.replace("--name a b", "--name a\nb\n x y z"))
    assert rows.keys() == {1, 512, 513, 514}
    assert rows[512].command == "/usr/local/bin/python -m server --name a\nb\n x y z"


def test_a_forged_row_makes_its_pid_ambiguous_and_so_untouchable() -> None:
    forged = "  512     1   512 Ss   Tue Nov 24 03:29:00 2026     x QWEND_MARKER=i:r:a/b:9"
    assert 512 not in parse_rows(PLAIN.replace("echo QWEND", f"echo\n{forged}\nQWEND"))


def test_rows_of_two_processes_are_not_compared() -> None:
    plain, extended = parse_rows(PLAIN)[512], parse_rows(EXTENDED)[512]
    assert environment_of(plain, extended._replace(started=extended.started + 1)) is None
    assert environment_of(plain, extended._replace(command="other")) is None


def test_nothing_is_read_from_an_empty_answer() -> None:
    assert parse_rows("") == {}
