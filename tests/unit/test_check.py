"""`./check` tries what drives real processes once more, and never calls nothing a success."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
ONCE = "touch there; test -e before || { touch before; exit 1; }"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", ROOT / ".ci/check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.mark.parametrize(
    ("command", "alone", "mark"),
    [
        (["true"], True, "ok"),
        (["sh", "-c", ONCE], True, "unsteady"),
        (["sh", "-c", ONCE], False, "FAILED"),
        (["false"], True, "FAILED"),
        (["sh", "-c", "exit 2"], True, "FAILED"),
    ],
)
def test_a_part_is_called_what_it_was(
    check: ModuleType, tmp_path: Path, command: list[str], alone: bool, mark: str
) -> None:
    runner = check.Runner(tmp_path)
    runner.run([check.Part("it", command, alone=alone)])
    assert [result.mark for result in runner.results] == [mark]
    assert check.summary(runner.results, [], 1.0, tmp_path) == (1 if mark == "FAILED" else 0)


def test_only_the_failed_tests_are_tried_again_and_they_must_pass(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from pathlib import Path\n"
        "def count(name):\n"
        "    with open(name, 'a') as file:\n        file.write('x')\n"
        "    return Path(name).stat().st_size\n"
        "def test_steady(): assert count('steady') == 1\n"
        "def test_late(): assert count('late') == 2\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    runner = check.Runner(tmp_path)
    runner.run([check.Part("it", [sys.executable, "-m", "pytest", "-q", "test_it.py"], alone=True)])
    assert [result.mark for result in runner.results] == ["unsteady"]
    assert "test_late" in runner.results[0].output


def test_all_run_again_where_no_test_failed_but_the_session_did(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (tmp_path / "conftest.py").write_text(
        "from pathlib import Path\n"
        "def pytest_sessionfinish(session):\n"
        "    if not Path('before').exists():\n"
        "        Path('before').touch()\n        session.exitstatus = 1\n"
    )
    (tmp_path / "test_it.py").write_text("def test_well(): pass\n")
    runner = check.Runner(tmp_path)
    runner.run([check.Part("it", [sys.executable, "-m", "pytest", "-q", "test_it.py"])])
    assert [result.mark for result in runner.results] == ["unsteady"]
    assert runner.results[0].output.count("1 passed") == 2
