"""What a user reads when something is odd: names as they were typed, hints that work, nothing that fools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fakes.api_server import FakeDaemon
from tests.unit.cli.conftest import Qwend
from tests.unit.cli.samples import CHAT, Q4, end, event, plan, row, step
from tests.unit.cli.test_readers import PLUGIN

from qwend.cli.verbs import program, spelled


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("./qwend", "./qwend"),
        ("../my tools/qwend", "'../my tools/qwend'"),
        ("/opt/tools/qwend", "qwend"),
        ("/elsewhere/qwend", "/elsewhere/qwend"),
        ("qwend", "qwend"),
        ("/usr/lib/python3/site-packages/qwend/__main__.py", "qwend"),
    ],
)
def test_hints_name_the_program_as_the_user_typed_it(
    monkeypatch: pytest.MonkeyPatch, typed: str, shown: str
) -> None:
    monkeypatch.setattr(sys, "argv", [typed])
    monkeypatch.setenv("PATH", "/usr/bin:/opt/tools")
    assert program() == shown
    assert spelled("see `qwend ps`, qwend daemon stop") == f"see `{shown} ps`, {shown} daemon stop"
    assert spelled("the daemon is qwend 1.0; /x/qwend up") == "the daemon is qwend 1.0; /x/qwend up"


def test_errors_help_and_empty_tables_are_spelled_that_way(
    qwend: Qwend, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["./qwend"])
    daemon.answers("GET", "/v1/steps", {"steps": []})
    assert qwend("ps").out == "nothing has run here yet: ./qwend up FILE.yaml\n"
    assert "or write one: ./qwend init)" in qwend("up").err
    shown = qwend("store", "verify", "--help").out
    assert "Usage: ./qwend store verify" in shown and "Example: ./qwend store verify" in shown
    assert qwend("ps", "--nothing").err.endswith("(see `./qwend ps --help`)\n")


def test_the_launcher_tells_how_it_was_called() -> None:
    root = Path(__file__).resolve().parents[3]
    last = (root / "qwend").read_text().rpartition("exec ")[2].replace("\\\n", " ")
    code = (
        last.partition("'")[2]
        .partition("'")[0]
        .replace("from qwend.cli import main; main()", "print(sys.argv)")
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "/d", "/s", "./qwend", "up", "x"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"$root/daemon" "$site" "$0" "$@"' in last
    assert ended.stdout == "['./qwend', 'up', 'x']\n"


def _python(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -m qwend "$@" {redirection}', sys.executable, *arguments],
        env=environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_told_as_other_programs_do(daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT]})
    for arguments in (["ps"], ["ps", "--json"], ["--version"], ["ps", "--help"]):
        ended = _python("> /dev/full", *arguments)
        assert (ended.returncode, ended.stderr) == (
            1,
            "qwend: cannot write to standard output: No space left on device\n",
        )
    ended = _python("2> /dev/full", "ports", "--nothing")
    assert (ended.returncode, ended.stdout) == (2, "")


def test_closed_streams_break_nothing_and_a_lost_answer_is_told(daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT]})
    ended = _python(">&-", "ps")
    assert (ended.returncode, ended.stderr) == (
        1,
        "qwend: cannot write to standard output: Bad file descriptor\n",
    )
    ended = _python("<&- 2>&-", "ps")
    assert (ended.returncode, len(ended.stdout.splitlines())) == (0, 2)
    daemon.streams("POST", "/v1/down", {"end": {"stopped": [], "killed": [], "exit_code": 0}})
    assert _python("<&- >&- 2>&-", "down", "--all").returncode == 1


def test_a_name_with_a_newline_makes_no_line_of_its_own(qwend: Qwend, daemon: FakeDaemon) -> None:
    fooling = "x\nqwend: all is well\x1b[2K"
    daemon.fails("GET", "/v1/ports", 400, kind="UsageError", message="bad", where=f"/d/{fooling}.yaml:1:1")
    shown = qwend("ports").err
    assert shown == "/d/x\\nqwend: all is well\\x1b[2K.yaml:1:1: bad\n"
    Path("qwend.yaml").write_text("name: huanhuan\n")
    planned = plan(("run", "q4", f"file:{fooling}"), warnings=[fooling])
    daemon.streams(
        "POST",
        "/v1/runs",
        planned,
        {"run": "01J"},
        {"event": event("job.failed", "q4", reason=fooling)},
        end(Q4),
    )
    ended = qwend("up", "-d")
    assert not [line for line in ended.err.splitlines() if line.startswith("qwend: all is well")]
    assert "\x1b" not in ended.err + ended.out


def test_a_second_up_says_again_that_the_model_is_a_made_up_one(qwend: Qwend, daemon: FakeDaemon) -> None:
    Path("qwend.yaml").write_text("name: huanhuan\n")
    notice = "no hub reachable: using a tiny untrained model, it talks nonsense"
    steps = [step("base", "smoke", "source", notices=[notice])]
    daemon.streams("POST", "/v1/runs", plan(("keep", "chat", ""), steps=steps), {"run": None, **end(CHAT)})
    assert qwend("up").out.splitlines() == ["huanhuan: nothing to do; chat at http://127.0.0.1:18100", notice]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("recipes/gguf", "recipes/gguf is no recipe file (did you mean recipes/gguf.yaml?)"),
        (
            "recipes/gguf.yam",
            "recipes/gguf.yam is neither a recipe file (it ends in .yaml) nor the name of a step",
        ),
        ("recipes", "recipes is no recipe file (did you mean recipes/qwend.yaml?)"),
        ("notes.txt", "notes.txt does not end in .yaml, and is taken for a step (-f notes.txt)"),
    ],
)
def test_a_path_is_not_taken_for_a_step(qwend: Qwend, daemon: FakeDaemon, given: str, says: str) -> None:
    Path("recipes").mkdir()
    for path in ("recipes/gguf.yaml", "recipes/qwend.yaml", "notes.txt", "qwend.yaml"):
        Path(path).write_text("name: x\n")
    for verb in ("up", "plan", "down"):
        ended = qwend(verb, given)
        assert (ended.code, ended.err) == (2, f"qwend: {says}\n")


def test_a_device_or_runtime_that_is_none_is_answered_with_what_was_meant(
    qwend: Qwend, daemon: FakeDaemon
) -> None:
    assert "did you mean cuda?" in qwend("up", "--device", "gpu").err
    assert "did you mean docker?" in qwend("up", "--runtime", "dokcer").err
    assert (
        "kubernetes"
        not in qwend("up", "--help").out + qwend("run", "--help").out + qwend("chat", "--help").out
    )


def test_errors_of_a_composed_recipe_speak_of_the_options(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/plugins", {"plugins": [PLUGIN]})
    details = [
        {
            "kind": "UsageError",
            "message": "steps.quantize.with.type: unknown type",
            "where": "-:7:13",
            "details": [],
        },
        {"kind": "UsageError", "message": "models.input: there is no file", "where": "-:4:3", "details": []},
    ]
    daemon.fails("POST", "/v1/runs", 400, kind="UsageError", message="two", details=details)
    ended = qwend("run", "llama-cpp/quantize", "--from", "file:x.gguf", "--with", "type=Q4_K_N")
    assert ended.err.splitlines()[-2:] == [
        "--with type: unknown type",
        "--from: there is no file",
    ]
    assert ended.code == 2


def test_down_all_and_one_of_them_contradict_each_other(qwend: Qwend, daemon: FakeDaemon) -> None:
    ended = qwend("down", "--all", "-p", "huanhuan")
    assert ended.code == 2
    assert "--all stops every recipe, and one was named" in ended.err
    assert not daemon.seen("POST", "/v1/down")


def test_logs_without_a_step_are_those_of_the_whole_recipe(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/recipes", {"recipes": [{"name": "huanhuan", "source": "/d/r.yaml"}]})
    daemon.answers("GET", "/v1/steps", {"steps": [Q4, CHAT, row("f16", "cached", log=None)]})
    daemon.streams("GET", "/v1/logs/huanhuan/q4", b"\x1b[31mone\n")
    daemon.streams("GET", "/v1/logs/huanhuan/chat", b"two\n")
    assert qwend("logs").out == "q4 | \\x1b[31mone\nchat | two\n"
    assert qwend("logs", "-p", "huanhuan", "chat").out == "two\n"
    Path("r.yaml").write_text("name: huanhuan\n")
    assert qwend("logs", "r.yaml", "chat").out == "two\n"
    assert qwend("logs", "-f").out == "two\n"  # the only one whose log grows
    ended = qwend("logs", "q4", "chat")
    assert (ended.code, ended.out) == (2, "")


def test_ps_shows_how_often_a_service_was_started_again(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [{**CHAT, "restarts": 3}, {**Q4, "restarts": 0}]})
    header, chat, _ = qwend("ps").out.splitlines()
    assert chat[: header.index("RESTARTS") + len("RESTARTS")].endswith(" 3")


def test_inspect_speaks_of_times_and_sizes_as_people_do_and_json_does_not(
    qwend: Qwend, daemon: FakeDaemon
) -> None:
    artifact = {
        "digest": "3fa9c1d2" + "0" * 56, "type": "model/gguf", "size": 491_400_064, "created": 1.7e9,
        "facts": {"bytes": 491_400_064, "context": 32768}, "metrics": {"seconds": 200.4},
        "provenance": {"started": 1.7e9, "ended": 1.7e9 + 200, "peak_memory": 2 << 30, "parameters": {"size": 4096}},
    }  # fmt: skip
    daemon.answers("GET", "/v1/steps", {"steps": [Q4]})
    daemon.answers(
        "GET",
        "/v1/steps/huanhuan/q4",
        {"row": Q4, "compiled": {"options": {"bytes": 7}}, "artifact": artifact},
    )
    told = qwend("inspect", "q4").out
    pairs = [line.split(None, 1) for line in told.splitlines() if line.startswith("  ")]
    shown = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
    assert shown["started"].startswith("2023-11-1")
    assert (shown["peak_memory"], shown["seconds"], shown["context"]) == ("2 GiB", "3 min 20 s", "32768")
    assert shown["bytes"] == "469 MiB" and shown["size"] == "4096"  # the parameter, as it was given
    assert "with\n  bytes  7\n" in told
    assert json.loads(qwend("inspect", "q4", "--json").out)["artifact"] == artifact


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("temprature=0", "there is no setting temprature; did you mean temperature?"),
        ("temperature=hot", 'temperature is a number, and "hot" is none'),
        ("messages=[]", "messages is settled by the conversation itself"),
    ],
)
def test_a_setting_of_a_chat_that_nothing_would_heed_is_refused(
    qwend: Qwend, daemon: FakeDaemon, pair: str, says: str
) -> None:
    ended = qwend("chat", "-m", "Hi", "--set", pair)
    assert (ended.code, ended.err) == (2, f"qwend: {says}\n")
    assert not daemon.requests


# --- the configuration ---------------------------------------------------------------------------------------


def test_a_config_that_is_not_there_is_told_before_a_daemon_is_started(
    qwend: Qwend, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEND_CONFIG", "mine.toml")
    ended = qwend("ps")
    assert (ended.code, ended.out) == (2, "")
    says = "QWEND_CONFIG names this file, and it is not there (write it, or unset QWEND_CONFIG)"
    assert ended.err == f"mine.toml: {says}\n"
    assert list(home.iterdir()) == []


def test_a_broken_config_is_told_with_its_line_before_a_daemon_is_started(
    qwend: Qwend, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("q.toml").write_text("runtime = native\n")
    monkeypatch.setenv("QWEND_CONFIG", "q.toml")
    ended = qwend("up", "-f", "q.toml")
    assert ended.code == 2
    assert ended.err.startswith("q.toml:1:11: invalid value (it is TOML: a text stands in quotes")
    assert list(home.iterdir()) == []


def test_a_config_that_a_running_daemon_did_not_read_is_not_passed_over_in_silence(
    qwend: Qwend, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": []})
    daemon.answers("GET", "/v1/version", {**daemon.hello(), "config": None})
    Path("q.toml").write_text("")
    monkeypatch.setenv("QWEND_CONFIG", "q.toml")
    ended = qwend("ps")
    assert ended.code == 0
    assert f"began with no qwend.toml, and QWEND_CONFIG names {os.getcwd()}/q.toml" in ended.err
    daemon.answers("GET", "/v1/version", {**daemon.hello(), "config": f"{os.getcwd()}/q.toml"})
    assert qwend("ps").err == ""
    monkeypatch.setenv("QWEND_CONFIG", "nowhere.toml")
    assert qwend("ps").code == 2
