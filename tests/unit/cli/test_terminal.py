"""How things look: escaped, aligned, in units."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.api_server import FakeDaemon
from tests.unit.cli.samples import CHAT, Q4, Json, end, event, plan

from qwend.cli.progress import amounts
from qwend.cli.terminal import clean, duration, size, table, width

_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@given(st.text(st.characters()))
def test_no_text_steers_a_terminal(text: str) -> None:
    assert not _STEERS.search(clean(text))
    assert "\n" not in clean(text, lines=False)
    clean(text).encode()


def test_text_that_does_no_harm_stays_as_it_is() -> None:
    assert clean("Q4_K_M → 你好\tok\n") == "Q4_K_M → 你好\tok\n"


@pytest.mark.parametrize(
    ("count", "says"),
    [
        (None, ""),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (491_400_064, "469 MiB"),
        (1 << 31, "2 GiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_bytes_are_told_in_binary_units(count: float | None, says: str) -> None:
    assert size(count) == says


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.9, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_spans_of_time_are_told_in_two_units(seconds: float | None, says: str) -> None:
    assert duration(seconds) == says


def test_a_table_aligns_ideographs_and_leaves_out_empty_columns() -> None:
    shown = table([("模型", "", 1), ("q4", None, 20)], ("NAME", "EMPTY", "N"), right=("N",)).splitlines()
    assert shown == ["NAME   N", "模型   1", "q4    20"]
    assert {width(line) for line in shown} == {8}


@pytest.mark.parametrize(("columns", "last"), [(40, "x" * 29 + "…"), (200, "x" * 60), (4, "x" * 11 + "…")])
def test_on_a_terminal_the_last_column_is_cut_to_what_is_left(
    monkeypatch: pytest.MonkeyPatch, columns: int, last: str
) -> None:
    monkeypatch.setattr("qwend.cli.terminal._columns", lambda: columns)
    shown = table([("q4", "short"), ("chat-123", "x" * 60)], ("STEP", "REASON")).splitlines()
    assert shown == ["STEP      REASON", "q4        short", f"chat-123  {last}"]


def test_a_line_break_in_a_cell_cannot_forge_a_row() -> None:
    assert len(table([("a\nready  b",)], ("STEP",)).splitlines()) == 2


@pytest.mark.parametrize(
    ("news", "says"),
    [
        ({}, ""),
        ({"done": 3, "total": 30, "unit": "tensors"}, "3 of 30 tensors"),
        (
            {"done": 1 << 20, "total": 2 << 20, "unit": "B", "rate": 1 << 20},
            "1 MiB of 2 MiB, 1 MiB/s, 1.0 s left",
        ),
        ({"done": 12.5, "unit": "%"}, "12 %"),
        ({"done": 40, "total": 100, "unit": "%", "rate": 20}, "40 %, 3.0 s left"),
        ({"done": 1, "total": 3, "unit": "step"}, "1 of 3 steps"),
    ],
)
def test_progress_tells_as_much_as_is_known(news: Json, says: str) -> None:
    assert amounts(news) == says


def _on_a_terminal(*arguments: str, **environ: str) -> str:
    """What a command line writes to a terminal of 100 columns."""
    leader, follower = pty.openpty()
    os.set_inheritable(follower, True)
    said: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(leader, 65536):
                said.append(data)
        except OSError:
            return  # the other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    settings = {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "qwend", *arguments]
    environ = {**os.environ, **settings, **environ}
    ended = subprocess.run(
        command, stdin=follower, stdout=follower, stderr=follower, env=environ, timeout=60, check=False
    )
    assert ended.returncode == 0
    os.close(follower)
    reader.join(30)
    os.close(leader)
    return b"".join(said).decode()


@pytest.fixture
def busy(daemon: FakeDaemon) -> FakeDaemon:
    """A daemon with an `up` to show."""
    Path("qwend.yaml").write_text("name: huanhuan\n")
    news = {
        "subject": "huanhuan/base",
        "phase": "download",
        "done": 50,
        "total": 100,
        "unit": "B",
        "rate": 10,
    }
    daemon.streams(
        "POST", "/v1/runs", plan(("run", "q4", "new")), {"run": "01J"}, {"progress": news},
        {"event": event("job.running", "q4")}, {"event": event("job.succeeded", "q4")},
        {"event": event("service.failed", "x", reason="\x1b]0;owned\x07[red]not markup[/red]")}, end(Q4, CHAT),
    )  # fmt: skip
    return daemon


def test_a_terminal_gets_bars_and_colours(busy: FakeDaemon) -> None:
    said = _on_a_terminal("up", "-d")
    assert "50 B of 100 B, 10 B/s, 5.0 s left" in said
    assert "\x1b[32m" in said and "━" in said
    assert "q4: succeeded" in said
    assert "\x1b[?25l" in said and said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")


def test_a_bar_tells_the_loss_beside_the_steps(daemon: FakeDaemon) -> None:
    Path("qwend.yaml").write_text("name: huanhuan\n")
    news = {"subject": "huanhuan/q4", "phase": "train", "done": 5, "total": 20, "unit": "steps", "rate": 0.5}
    told = {**news, "message": "loss 2.5, lr 0.0001, 500 tokens/s"}
    daemon.streams(
        "POST", "/v1/runs", plan(("run", "q4", "new")), {"run": "01J"}, {"progress": told}, end(Q4)
    )
    said = _on_a_terminal("up", "-d", COLUMNS="90")
    assert "5 of 20 steps, 0.5 steps/s, 30 s left" in said
    assert "loss 2.5, lr 0.0001, 500 tokens/s" in said


def test_hostile_text_is_shown_and_not_obeyed(busy: FakeDaemon) -> None:
    said = _on_a_terminal("up", "-d")
    assert "\\x1b]0;owned\\x07[red]not markup[/red]" in said
    assert "\x1b]0;owned" not in said


def test_no_color_means_no_colour(busy: FakeDaemon) -> None:
    said = _on_a_terminal("up", "-d", NO_COLOR="1")
    assert not re.search("\x1b\\[(3[0-7]|9[0-7]|38)", said)
    assert "q4: succeeded" in said


def test_a_dumb_terminal_gets_plain_lines(busy: FakeDaemon) -> None:
    said = _on_a_terminal("up", "-d", TERM="dumb")
    assert "\x1b" not in said
    assert "base: download 50 %, 50 B of 100 B, 10 B/s, 5.0 s left" in said
