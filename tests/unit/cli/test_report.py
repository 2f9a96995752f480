"""`qwend report`: which recipe, which form, where it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fakes.api_server import FakeDaemon
from tests.unit.cli.conftest import Qwend
from tests.unit.report.test_report import DATA


@pytest.fixture(autouse=True)
def known(daemon: FakeDaemon) -> None:
    daemon.answers(
        "GET",
        "/v1/recipes",
        {"recipes": [{"name": "eval", "state": "ready"}, {"name": "old", "state": "done"}]},
    )
    daemon.answers("GET", "/v1/recipes/eval/report", DATA)


def test_a_report_is_written_here_under_the_recipes_name(
    qwend: Qwend, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = qwend("report")
    assert ended.code == 0
    assert ended.out.strip() == str(tmp_path / "eval-report.html")
    assert (tmp_path / "eval-report.html").read_text().startswith("<!doctype html>")
    assert not list(tmp_path.glob("*.part"))


def test_the_form_follows_from_the_files_name_unless_it_is_said(qwend: Qwend, tmp_path: Any) -> None:
    qwend("report", "eval", "-o", str(tmp_path / "a.md"))
    assert (tmp_path / "a.md").read_text().startswith("# eval\n")
    qwend("report", "-p", "eval", "-o", str(tmp_path / "a.json"))
    assert json.loads((tmp_path / "a.json").read_text()) == DATA
    qwend("report", "eval", "--format", "md", "-o", str(tmp_path / "a.txt"))
    assert (tmp_path / "a.txt").read_text().startswith("# eval\n")


def test_json_and_a_dash_go_to_standard_output(qwend: Qwend) -> None:
    assert json.loads(qwend("report", "eval", "--json").out) == DATA
    assert qwend("report", "eval", "-o", "-").out.startswith("<!doctype html>")
    assert qwend("report", "eval", "-o", "-", "--format", "md").out.startswith("# eval")


def test_a_recipe_that_is_not_known_is_told(qwend: Qwend) -> None:
    ended = qwend("report", "evil")
    assert ended.code == 2
    assert 'no recipe "evil" (did you mean eval?' in ended.err
    assert qwend("report", "eval", "-p", "old").code == 2


def test_a_file_that_cannot_be_written_is_one_line(qwend: Qwend, tmp_path: Any) -> None:
    ended = qwend("report", "eval", "-o", str(tmp_path / "none" / "a.html"))
    assert ended.code == 1
    assert "cannot be written: No such file or directory" in ended.err
    assert "Traceback" not in ended.err
