from __future__ import annotations

import os
from typing import Any

from qwend.adapters.native.identity import ProcessIdentity, boot_id
from qwend.adapters.native.processes import MARKER, Known, Process, ProcessTable, look, main_of, with_marker

REAPER = 50


def row(pid: int, parent: int = REAPER, marker: str | None = None, **more: int) -> Process:
    fields = {"group": pid, "session": pid, "started": pid}
    return Process(pid=pid, parent=parent, marker=marker, **{**fields, **more})


def pids(rows: list[Process]) -> list[int]:
    return [found.pid for found in rows]


def known(main: int, **more: Any) -> Known:
    return Known(ProcessIdentity(main, main, boot_id()), reaper=REAPER, **more)


def test_a_tree_is_what_carries_the_marker() -> None:
    table = ProcessTable(
        [row(60, marker="i:a"), row(61, 60, "i:a"), row(62, 1, "i:a"), row(70, marker="i:b")]
    )
    assert pids(table.tree("i:a")) == [60, 61, 62]
    assert {marker: pids(rows) for marker, rows in table.markers().items()} == {
        "i:a": [60, 61, 62],
        "i:b": [70],
    }


def test_children_that_wiped_their_environment_belong_to_it() -> None:
    table = ProcessTable([row(60, marker="i:a"), row(61, 60), row(62, 61), row(99, 1)])
    assert pids(table.tree("i:a")) == [60, 61, 62]


def test_a_main_process_that_wiped_its_environment_is_known_by_its_identity() -> None:
    table = ProcessTable([row(60), row(61, 60), row(62, 1, session=60)])
    assert pids(table.tree("i:a", known(60))) == [60, 61, 62]


def test_a_stranger_with_the_main_process_s_pid_is_no_part_of_it() -> None:
    table = ProcessTable([row(60, 1, started=999), row(61, 60), row(62, 60, session=60)])
    assert table.tree("i:a", known(60)) == []


def test_orphans_of_its_session_are_found_where_the_supervisor_took_them_in() -> None:
    table = ProcessTable([row(61, REAPER, session=60), row(62, 1, session=60)])
    assert pids(table.tree("i:a", known(60))) == [61]


def test_a_pid_that_came_again_in_the_same_tick_is_a_stranger_s() -> None:
    """Start times have ticks of 10 ms. The main process leads its session, and its exit may have been told."""
    assert ProcessTable([row(60, 1, session=7)]).tree("i:a", known(60)) == []
    assert ProcessTable([row(60, 1)]).tree("i:a", known(60, ended=True)) == []
    assert pids(ProcessTable([row(60, 1)]).tree("i:a", known(60))) == [60]


def test_who_was_a_member_stays_one_without_parent_and_marker() -> None:
    table = ProcessTable([row(70, 1), row(71, 70), row(72, 1)])
    seen = frozenset({table.rows[70].identity, table.rows[72].identity._replace(started=1)})
    assert pids(table.tree("i:a", Known(seen=seen))) == [70, 71]


def test_a_tree_ends_where_another_step_begins() -> None:
    table = ProcessTable([row(60, marker="i:a"), row(61, 60, "i:b"), row(62, 61)])
    assert pids(table.tree("i:a")) == [60]


def test_neither_the_asking_process_nor_the_reaper_is_ever_in_a_tree() -> None:
    table = ProcessTable([row(60, marker="i:a"), row(os.getpid(), 60, "i:a"), row(REAPER, 60)])
    assert pids(table.tree("i:a", Known(reaper=REAPER))) == [60]


def test_the_main_process_is_the_oldest_that_no_other_of_the_tree_started() -> None:
    tree = ProcessTable([row(61, 60, "i:a", started=5), row(60, marker="i:a"), row(62, 1, "i:a")]).tree("i:a")
    assert main_of(tree) == row(60, marker="i:a")
    assert main_of([]) is None


def test_descent_goes_over_many_parents_and_stands_a_circle() -> None:
    table = ProcessTable([row(60), row(61, 60), row(80, 81), row(81, 80)])
    assert table.descends(table.rows[61], REAPER)
    assert not table.descends(table.rows[80], REAPER)


def test_a_step_s_environment_is_complete_and_marked() -> None:
    assert with_marker({"A": "b", MARKER: "forged"}, "i:a") == {"A": "b", MARKER: "i:a", "SPT_NOENV": "1"}


def test_only_the_instance_s_own_markers_are_seen() -> None:
    environments = ["i:a", "ii:a", "i", "x\0i:a"]
    started = {
        os.posix_spawn("/bin/sleep", ["sleep", "100"], {"A": "b", MARKER: value.partition("\0")[0]}): value
        for value in environments
    }
    try:
        table = look("i")
        assert {started[pid]: table.rows[pid].marker for pid in started} == {
            "i:a": "i:a",
            "ii:a": None,
            "i": None,
            "x\0i:a": None,
        }
        assert table.rows[min(started)].parent == os.getpid()
    finally:
        for pid in started:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
