"""The copy of a container's output."""

from __future__ import annotations

from pathlib import Path

from qwend.adapters.docker.logs import LogFile


def entry(second: int, text: str) -> bytes:
    return f"2026-11-24T00:{second // 60:02}:{second % 60:02}.000000000Z {text}\n".encode()


def test_entries_are_appended_without_their_times(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log")
    file.write([entry(1, "one"), entry(2, "two words")])
    file.close()
    assert (tmp_path / "log").read_text() == "one\ntwo words\n"


def test_a_copy_that_was_cut_off_goes_on_after_its_last_entry(tmp_path: Path) -> None:
    first = LogFile(tmp_path / "log")
    first.write([entry(1, "one"), entry(2, "two")])
    first.close()
    second = LogFile(tmp_path / "log")
    since = second.since()
    assert since is not None
    second.write([entry(1, "one"), entry(2, "two"), entry(3, "three")])
    second.close()
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


def test_entries_of_one_time_are_neither_lost_nor_told_twice(tmp_path: Path) -> None:
    first = LogFile(tmp_path / "log")
    first.write([entry(1, "one"), entry(1, "two")])
    first.write([entry(1, "three")])
    first.close()
    second = LogFile(tmp_path / "log")
    second.write([entry(1, "one"), entry(1, "two"), entry(1, "three"), entry(1, "four"), entry(2, "five")])
    second.close()
    third = LogFile(tmp_path / "log")
    third.write([entry(2, "five"), entry(2, "six")])
    third.close()
    assert (tmp_path / "log").read_text().split() == ["one", "two", "three", "four", "five", "six"]


def test_a_log_stays_below_its_limit_and_keeps_the_newest_whole_lines(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", limit=1000)
    for second in range(500):
        file.write([entry(second, f"line {second}")])
        assert (tmp_path / "log").stat().st_size <= 1000
    file.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-1] == "line 499"
    assert lines == [f"line {number}" for number in range(500 - len(lines), 500)]


def test_a_spoilt_mark_starts_the_copy_from_the_beginning(tmp_path: Path) -> None:
    (tmp_path / ".log.at").write_bytes(b"\xff\xfe rubbish")
    file = LogFile(tmp_path / "log")
    assert file.since() is None
    file.write([entry(1, "one")])
    file.close()
    assert (tmp_path / "log").read_text() == "one\n"
