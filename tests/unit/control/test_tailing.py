"""A log as whoever watches it sees it: its end, what is added, and nothing twice when it was cut."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qwend.control.tailing import tail


async def read(path: Path, lines: int | None, since: float | None = None) -> bytes:
    return b"".join([piece async for piece in tail(path, False, lines, since, lambda: False)])


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        (None, b"one\ntwo\nthree\n"),
        (0, b""),
        (1, b"three\n"),
        (2, b"two\nthree\n"),
        (9, b"one\ntwo\nthree\n"),
    ],
)
async def test_the_last_lines_are_given(tmp_path: Path, lines: int | None, seen: bytes) -> None:
    (tmp_path / "log").write_bytes(b"one\ntwo\nthree\n")
    assert await read(tmp_path / "log", lines) == seen


async def test_a_line_that_is_not_finished_counts(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one\ntwo")
    assert await read(tmp_path / "log", 1) == b"two"


async def test_long_logs_are_read_from_behind(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"".join(b"%06d\n" % number for number in range(50_000)))
    assert (await read(tmp_path / "log", 12_000)).split()[0] == b"038000"


async def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert await read(tmp_path / "log", 5) == b""


async def test_what_is_added_is_told_until_the_step_ends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    living = True
    stream = tail(path, True, 1, None, lambda: living)
    assert await anext(stream) == b"old\n"
    with path.open("ab") as file:
        file.write(b"new\n")
    assert await asyncio.wait_for(anext(stream), 5) == b"new\n"
    living = False
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(stream), 5)
