"""The root command: help, failures, and what it costs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from tests.fakes.api_server import FakeDaemon
from tests.unit.cli.conftest import Qwend

from qwend.cli import program, verbs

READERS = [
    "ps", "ls", "logs", "events", "inspect", "ports", "doctor", "plan", "lock", "down", "daemon status", "store ls",
    "store verify", "store prune", "store export", "images ls", "images build", "images verify", "images prune",
    "plugins ls", "plugins check",
]  # fmt: skip


def _commands() -> list[str]:
    found = []
    for name in verbs.COMMANDS:
        command = importlib.import_module(f"qwend.cli.commands.{name}").command
        assert isinstance(command, click.Command)
        found.append(name)
        if isinstance(command, click.Group):
            found += [f"{name} {sub}" for sub in command.commands]
    return found


@pytest.mark.parametrize("name", _commands())
def test_every_command_explains_itself_with_an_example(qwend: Qwend, name: str) -> None:
    ended = qwend(*name.split(), "--help")
    assert ended.code == 0
    assert f"Usage: qwend {name}" in ended.out
    assert "Example: " in ended.out and "qwend " in ended.out.partition("Example: ")[2]


@pytest.mark.parametrize("name", READERS)
def test_every_reader_has_json_and_says_what_is_in_it(qwend: Qwend, name: str) -> None:
    ended = qwend(*name.split(), "--help")
    assert "--json" in ended.out
    assert "JSON: " in ended.out


def test_the_help_lists_every_command_with_the_first_words_of_its_own_help(qwend: Qwend) -> None:
    shown = qwend("--help").out
    for name, sentence in verbs.COMMANDS.items():
        command = importlib.import_module(f"qwend.cli.commands.{name}").command
        assert f"  {name}" in shown and sentence in shown
        first = sentence.split(",")[0].split(":")[0].replace("`up`", "").split()[0]
        assert (command.help or "").lstrip().startswith(first), name


def test_every_module_of_a_command_is_in_the_table() -> None:
    folder = Path(program.__file__).parent / "commands"
    assert {path.stem for path in folder.glob("[a-z]*.py")} == set(verbs.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["pss"], "ps"),
        (["lgos"], "logs"),
        (["UP"], "up"),
        (["store", "verfy"], "verify"),
        (["ps", "--jsn"], "--json"),
    ],
)
def test_a_mistyped_word_is_answered_with_what_was_meant(
    qwend: Qwend, arguments: list[str], meant: str
) -> None:
    ended = qwend(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert meant in ended.err and "id you mean" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_missing_argument_is_bad_usage(qwend: Qwend) -> None:
    ended = qwend("start")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "qwend start: missing argument 'STEP' (see `qwend start --help`)\n"


def test_the_version_is_printed(qwend: Qwend) -> None:
    from qwend import __version__

    assert qwend("--version").out == f"qwend {__version__}\n"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("QwendError", 1),
        ("UsageError", 2),
        ("Unreachable", 3),
        ("GateRefused", 4),
        ("OutOfResource", 5),
        ("Interrupted", 130),
    ],
)
def test_the_exit_code_is_that_of_the_error(qwend: Qwend, daemon: FakeDaemon, kind: str, code: int) -> None:
    daemon.fails("GET", "/v1/ports", 409, kind=kind, message="it went wrong", hint="mend it")
    ended = qwend("ports")
    assert (ended.code, ended.out, ended.err) == (code, "", "qwend: it went wrong (mend it)\n")


def test_all_errors_of_a_recipe_are_told_each_on_its_line(qwend: Qwend, daemon: FakeDaemon) -> None:
    details = [
        {
            "kind": "UsageError",
            "message": f"steps.q{n}: bad",
            "where": f"r.yaml:{n}:3",
            "hint": "do it well",
            "details": [],
        }
        for n in (1, 2)
    ]
    daemon.fails("GET", "/v1/ports", 400, kind="UsageError", message="two errors", details=details)
    ended = qwend("ports")
    assert ended.err == "r.yaml:1:3: steps.q1: bad (do it well)\nr.yaml:2:3: steps.q2: bad (do it well)\n"
    assert ended.code == 2


def test_a_recipe_in_the_current_folder_is_named_without_it(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.fails("GET", "/v1/ports", 400, kind="UsageError", message="bad", where=f"{os.getcwd()}/r.yaml:1:3")
    assert qwend("ports").err == "r.yaml:1:3: bad\n"


def test_in_the_root_folder_a_path_stays_whole(
    qwend: Qwend, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.fails("GET", "/v1/ports", 400, kind="UsageError", message="bad", where="/tmp/r.yaml:1:3")
    monkeypatch.chdir("/")
    assert qwend("ports").err == "/tmp/r.yaml:1:3: bad\n"


def test_a_bug_is_one_line_and_its_traceback_lies_in_the_log(
    qwend: Qwend, daemon: FakeDaemon, home: Path
) -> None:
    daemon.answers("GET", "/v1/ports", {"leases": "nonsense"})
    ended = qwend("ports")
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert "this is a bug: KeyError" in ended.err
    assert "Traceback" in (home / "logs" / "client.log").read_text()
    assert str(home / "logs" / "client.log") in ended.err


def test_a_traceback_is_shown_to_those_who_ask_for_it(
    qwend: Qwend, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEND_DEBUG", "1")
    daemon.answers("GET", "/v1/ports", {})
    assert "Traceback" in qwend("ports").err


def test_what_a_daemon_says_cannot_move_the_cursor(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.fails("GET", "/v1/ports", 409, message="\x1b]0;owned\x07\x1b[2J gone\r\u202e")
    assert "\\x1b]0;owned\\x07\\x1b[2J gone\\r\\u202e" in qwend("ports").err


def _python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["ps"]])
def test_a_light_command_imports_nothing_heavy(daemon: FakeDaemon, arguments: list[str]) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": []})
    code = (
        "import sys\nfrom qwend.cli.program import run\n"
        f"assert run({arguments!r}) == 0\n"
        "heavy = {'rich', 'pydantic', 'msgspec', 'yaml', 'docker', 'starlette', 'uvicorn', 'asyncio', 'subprocess', "
        "'urllib.parse', 'http.client', 'logging', 'pathlib', 'dataclasses', 'difflib', 'traceback'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    ended = _python("-c", code, PYTHONPATH=os.pathsep.join(sys.path))
    assert ended.stdout.splitlines()[-1] == "heavy: []", ended.stderr


def test_a_reader_that_leaves_early_is_no_error(daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [{"n": "x" * 100}] * 5000})
    command = [sys.executable, "-m", "qwend", "ps", "--json"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
