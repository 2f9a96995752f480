from __future__ import annotations

from qwend.adapters.native.memory import OomWatch, parse_oom_kill


def test_the_counter_is_read_from_both_kinds_of_file() -> None:
    assert parse_oom_kill("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 9\n") == 2
    assert parse_oom_kill("nr_free_pages 7\noom_kill 41\n") == 41
    assert parse_oom_kill("low 0\n") is None


def test_where_nothing_was_killed_nothing_is_blamed_on_memory() -> None:
    assert OomWatch().recent() in (False, None)
