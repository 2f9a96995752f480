from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qwend.adapters.native.journal import COMPACT_BYTES, Journal, JournalReader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exits.jsonl"


def write(journal: Journal, *markers: str, **more: Any) -> None:
    journal.append({"marker": marker, **more} for marker in markers)
    assert journal.flush()


def markers(reader: JournalReader) -> list[str]:
    return [record["marker"] for record in reader.read()]


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The system refuses writes past that, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_reader_gets_each_exit_once(path: Path) -> None:
    journal, reader = Journal(path), JournalReader(path)
    write(journal, "a", "b")
    assert markers(reader) == ["a", "b"]
    assert markers(reader) == []
    write(journal, "c")
    assert markers(reader) == ["c"]


def test_a_reader_goes_on_from_a_cursor(path: Path) -> None:
    journal, reader = Journal(path), JournalReader(path)
    write(journal, "a", "b", "c")
    second = reader.read()[1]["cursor"]
    assert markers(JournalReader(path, second)) == ["c"]
    assert markers(JournalReader(path, reader.cursor)) == []


def test_what_is_acknowledged_is_not_told_again(path: Path) -> None:
    journal = Journal(path)
    write(journal, "a", "b", "c")
    a, b, _ = JournalReader(path).read()
    journal.acknowledge(b["cursor"])
    journal.flush()
    assert markers(JournalReader(path)) == ["a", "c"]
    assert [journal.has(marker) for marker in "abc"] == [True, False, True]
    journal.acknowledge(a["cursor"])
    assert not journal.has("a")


def test_numbers_go_on_after_a_restart_of_the_writer(path: Path) -> None:
    journal, reader = Journal(path), JournalReader(path)
    write(journal, "a", "b")
    for record in reader.read():
        journal.acknowledge(record["cursor"])
    journal.flush()
    again = Journal(path)
    assert not again.has("a")
    write(again, "c")
    assert markers(reader) == ["c"]
    assert reader.cursor.endswith(":3")


def test_a_restarted_writer_remembers_what_nobody_recorded(path: Path) -> None:
    write(Journal(path), "a")
    assert Journal(path).has("a")


def test_a_journal_that_began_anew_hides_nothing_behind_an_old_cursor(path: Path) -> None:
    write(Journal(path), "a", "b", "c")
    reader = JournalReader(path)
    reader.read()
    path.unlink()
    write(Journal(path), "d")
    assert markers(reader) == ["d"]


def test_the_file_does_not_grow_for_ever(path: Path) -> None:
    journal, reader = Journal(path), JournalReader(path)
    seen = []
    for n in range(3000):
        write(journal, f"marker {n}", padding="x" * 50)
        for record in reader.read():
            seen.append(record["marker"])
            if n:  # the first is never acknowledged
                journal.acknowledge(record["cursor"])
    assert seen == [f"marker {n}" for n in range(3000)]
    assert path.stat().st_size < 2 * COMPACT_BYTES
    assert markers(JournalReader(path))[0] == "marker 0"


def test_a_torn_line_is_dropped_and_does_not_spoil_the_next(path: Path) -> None:
    write(Journal(path), "a")
    with path.open("ab") as file:
        file.write(b'{"seq":2,"marker":"torn')
    reader = JournalReader(path)
    assert markers(reader) == ["a"]
    write(Journal(path), "b")
    assert markers(reader) == ["b"]


def test_lines_of_zeros_after_a_power_cut_are_passed_over(path: Path) -> None:
    write(Journal(path), "a")
    with path.open("ab") as file:
        file.write(b"\0" * 100 + b"\n")
    write(Journal(path), "b")
    assert markers(JournalReader(path)) == ["a", "b"]


def test_half_a_line_is_read_when_it_is_whole(path: Path) -> None:
    write(Journal(path), "a")
    reader = JournalReader(path)
    with path.open("ab", buffering=0) as file:
        file.write(b'{"seq":2,')
        assert markers(reader) == ["a"]
        file.write(b'"marker":"b"}\n')
        assert markers(reader) == ["b"]


def test_what_a_full_disk_refused_is_written_when_there_is_room(path: Path) -> None:
    journal = Journal(path)
    write(journal, "a")
    with no_file_longer_than(path.stat().st_size + 10):
        journal.append([{"marker": "b"}])
        assert not journal.flush()
        assert markers(JournalReader(path)) == ["a"]
    journal.append([{"marker": "c"}])
    assert journal.flush()
    assert markers(JournalReader(path)) == ["a", "b", "c"]


def test_a_cursor_of_another_journal_acknowledges_nothing(path: Path) -> None:
    journal = Journal(path)
    write(journal, "a")
    journal.acknowledge("other:1")
    assert journal.has("a")


def test_no_journal_yet_is_no_exit_yet(path: Path) -> None:
    assert markers(JournalReader(path)) == []
