from __future__ import annotations

import os
from pathlib import Path

import pytest

from qwend.adapters.native.logcut import cut


def lines(count: int) -> bytes:
    return b"".join(b"line %06d\n" % n for n in range(count))


def test_a_log_within_its_bound_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(lines(10))
    assert cut(str(log), 120) == 0
    assert log.read_bytes() == lines(10)


def test_the_newest_whole_lines_stay(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(lines(1000))
    gone = cut(str(log), 1200)
    assert gone == 12_000 - 600
    assert log.read_bytes() == lines(1000)[-600:]


def test_a_writer_goes_on_in_the_same_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, lines(1000))
    cut(str(log), 1205)
    os.write(fd, b"and on\n")
    os.close(fd)
    kept = log.read_bytes()
    assert kept == (lines(1000) + b"and on\n")[-len(kept) :]
    assert kept.startswith(b"line ")
    assert 600 <= len(kept) <= 1205


def test_one_endless_line_is_cut_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 5000)
    cut(str(log), 1000)
    assert log.read_bytes() == b"x" * 500


def test_more_than_one_chunk_slides(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(lines(1_000_000))
    cut(str(log), 8_000_000)
    kept = log.read_bytes()
    assert kept == lines(1_000_000)[-len(kept) :]
    assert 3_999_000 <= len(kept) <= 4_000_000


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(lines(1000))
    (tmp_path / "log").symlink_to("target")
    with pytest.raises(OSError, match="symbolic link"):
        cut(str(tmp_path / "log"), 100)
    assert (tmp_path / "target").read_bytes() == lines(1000)
