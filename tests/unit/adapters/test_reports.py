"""What steps write is read without trust: malformed lines, endless logs, secrets, last words."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwend.adapters.reports import FileReports
from qwend.core.redact import Redactor
from qwend.model.launch import Launch, LogHint, ProgressPattern

LAUNCH = Launch(
    argv=("tool",),
    progress=(ProgressPattern(r"\[ *(?P<done>\d+)/ *(?P<total>\d+)\]", phase="quantise", unit="tensors"),),
    hints=(LogHint(r"unknown type (?P<type>\S+)", 'unknown type "{type}"', "see the list"),),
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    log, report = tmp_path / "step.log", tmp_path / "report.jsonl"
    log.touch()
    report.touch()
    return log, report


def test_progress_comes_from_the_report_and_only_when_it_is_new(files: tuple[Path, Path]) -> None:
    log, report = files
    reports = FileReports()
    assert reports.progress("r/s", LAUNCH, str(log), str(report)) is None
    report.write_text(
        '{"progress": {"phase": "write", "done": 1, "total": 2, "unit": "B"}}\nnot json\n{"x":\n'
    )
    found = reports.progress("r/s", LAUNCH, str(log), str(report))
    assert found is not None
    assert (found.subject, found.phase, found.done, found.total, found.unit) == ("r/s", "write", 1, 2, "B")
    assert reports.progress("r/s", LAUNCH, str(log), str(report)) is None


def test_progress_is_read_from_the_tools_own_lines_coloured_or_overwritten(files: tuple[Path, Path]) -> None:
    log, report = files
    reports = FileReports()
    assert reports.progress("r/s", LAUNCH, str(log), str(report)) is None
    log.write_text("\x1b[32m[ 3/ 10]\x1b[0m blk\r[ 4/ 10] blk\r")
    found = reports.progress("r/s", LAUNCH, str(log), str(report))
    assert found is not None
    assert (found.phase, found.done, found.total) == ("quantise", 4, 10)


def test_what_an_earlier_start_left_in_the_log_is_no_news(files: tuple[Path, Path]) -> None:
    log, report = files
    log.write_text("[ 9/ 10]\n")
    assert FileReports().progress("r/s", LAUNCH, str(log), str(report)) is None


def test_metrics_and_facts_are_gathered(files: tuple[Path, Path]) -> None:
    _, report = files
    report.write_text(
        '{"metric": {"name": "ppl", "value": 7.5}}\n{"metric": {"name": "ppl", "of": "q[A]", "value": 8}}\n'
        '{"metric": {"name": "bad", "value": "x"}}\n{"fact": {"bits": 4.5}}\n{"select": "q[A]"}\n'
    )
    reports = FileReports()
    assert reports.metrics(str(report)) == ({"ppl": 7.5, "q[A].ppl": 8.0}, {"bits": 4.5})
    assert reports.selected(str(report)) == "q[A]"


@pytest.mark.parametrize(
    ("log", "report", "said"),
    [
        (
            "Traceback\nValueError: no",
            '{"error": {"message": "too large", "hint": "take less"}}',
            "too large (take less)",
        ),
        ("loading\nerror: unknown type Q9\nbye\n", "", 'unknown type "Q9" (see the list)'),
        (
            "loading\nCUDA error: out of memory\nclosing\n",
            "",
            "the memory of the card is too small: CUDA error: out of memory",
        ),
        ("first\nlast line\n", "", "last line"),
        ("", "", ""),
    ],
)
def test_last_words_are_the_most_telling_ones(
    files: tuple[Path, Path], log: str, report: str, said: str
) -> None:
    files[0].write_text(log)
    files[1].write_text(report)
    assert FileReports().last_words(LAUNCH, str(files[0]), str(files[1])).text == said


def test_a_taken_port_is_recognised(files: tuple[Path, Path]) -> None:
    files[0].write_text("OSError: [Errno 98] Address already in use\n")
    assert FileReports().last_words(LAUNCH, str(files[0]), str(files[1])).port_taken


def test_a_secret_in_last_words_is_hidden(files: tuple[Path, Path]) -> None:
    files[0].write_text("error: key open-sesame-42 was refused\n")
    said = FileReports(Redactor(["open-sesame-42"])).last_words(LAUNCH, str(files[0]), str(files[1])).text
    assert "open-sesame-42" not in said
    assert "was refused" in said


def test_a_log_without_end_is_read_from_its_end(files: tuple[Path, Path]) -> None:
    with files[0].open("wb") as file:
        file.truncate(1 << 30)
        file.seek(0, 2)
        file.write(b"\nerror: at the end\n")
    assert FileReports().last_words(LAUNCH, str(files[0]), str(files[1])).text == "error: at the end"
