"""`init`, `daemon`, `completion`, secrets, composed recipes."""

from __future__ import annotations

import json
import os
import plistlib
import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.api_server import FakeDaemon
from tests.unit.cli.conftest import Qwend
from tests.unit.cli.samples import CHAT, Q4

from qwend import __version__
from qwend.cli import installing
from qwend.cli.checkout import recipes_folder
from qwend.cli.request import secret_values
from qwend.cli.writing import name_of, scalar, single_step
from qwend.errors import UsageError


def test_a_secret_is_read_from_a_file_or_a_variable_and_never_given_openly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("from a file\n")
    monkeypatch.setenv("hf_token", "lower")
    monkeypatch.setenv("API_KEY", "upper")
    given = [f"key=@{tmp_path}/key", "hf_token", "api_key"]
    assert secret_values(given) == {"key": "from a file", "hf_token": "lower", "api_key": "upper"}
    with pytest.raises(UsageError, match="can be read by others"):
        secret_values(["key=open"])
    with pytest.raises(UsageError, match="the environment has no nothing"):
        secret_values(["nothing"])


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])))
def test_any_value_of_a_command_line_is_one_scalar_or_flow_of_the_recipe(text: str) -> None:
    written = scalar(text)
    assert written == text or yaml.safe_load(f"k: {written}") == {"k": text}


def test_values_keep_the_spelling_of_the_user() -> None:
    assert [scalar(text) for text in ("1e-5", "[a, b]", "true", "a: b", "-x", "")] == [
        "1e-5", "[a, b]", "true", '"a: b"', "-x", '""',
    ]  # fmt: skip


def test_a_composed_recipe_is_yaml_that_says_what_was_asked() -> None:
    text = single_step(
        "llama-cpp/convert-lora", name="x", sources=["file:a: b${HOME}", "hf:c/d"], datasets=False,
        parameters={"outtype": "f16", "note": "it's # here"}, out="/tmp/o",
    )  # fmt: skip
    read = yaml.safe_load(text)
    assert read["models"] == {"input_1": "file:a: b$${HOME}", "input_2": "hf:c/d"}
    assert read["steps"]["convert_lora"] == {
        "uses": "llama-cpp/convert-lora", "from": ["input_1", "input_2"],
        "with": {"outtype": "f16", "note": "it's # here"}, "out": "/tmp/o",
    }  # fmt: skip


@given(st.text())
def test_any_text_becomes_a_valid_name(text: str) -> None:
    import re

    assert re.fullmatch("[a-z][a-z0-9_]{0,63}", name_of(text))


READY = sorted(path.stem for path in Path(recipes_folder()).glob("*.yaml"))


@pytest.mark.parametrize("template", READY)
def test_init_writes_a_recipe_named_after_the_folder_and_overwrites_nothing(
    qwend: Qwend, template: str
) -> None:
    ended = qwend("init", template)
    assert (ended.code, ended.out) == (0, "wrote qwend.yaml; look at it, then: qwend plan, qwend up\n")
    assert yaml.safe_load(Path("qwend.yaml").read_text())["name"] == "work"
    again = qwend("init", template)
    assert (again.code, again.err) == (
        2,
        "qwend.yaml: it is there already (write it elsewhere with --out FILE)\n",
    )


def test_init_renames_the_recipe_in_the_examples_of_its_header_too(qwend: Qwend, home: Path) -> None:
    Path("ladder").mkdir()
    os.chdir("ladder")
    qwend("init", "quickstart")
    header = Path("qwend.yaml").read_text().partition("version:")[0].splitlines()
    assert (
        "#   qwend up                                fetch, serve, and print a curl line that works" in header
    )
    assert "#   qwend down -p ladder                    stop it" in header
    qwend("init", "gguf-ladder", "-o", "other.yaml")
    header_text = Path("other.yaml").read_text().partition("version:")[0]
    assert "qwend plan other.yaml  " in header_text and "qwend inspect ladder/quality" in header_text


@pytest.mark.parametrize("template", READY)
def test_no_example_of_a_written_recipe_names_the_one_that_it_came_from(qwend: Qwend, template: str) -> None:
    qwend("init", template)
    text = Path("qwend.yaml").read_text().partition("\nversion:")[0]
    commands = [line for line in text.splitlines() if line.startswith("#   qwend ")]
    assert commands
    for line in commands:
        assert f"recipes/{template}.yaml" not in line
        assert f" {template.replace('-', '_')}" not in line.partition("  ")[0]


def test_init_lists_what_there_is_and_knows_nothing_else(qwend: Qwend) -> None:
    shown = qwend("init", "--list").out
    assert READY and all(name in shown for name in READY)
    ended = qwend("init", "quickstrat")
    assert (ended.code, "did you mean quickstart?" in ended.err) == (2, True)
    assert not Path("qwend.yaml").exists()


def test_daemon_status_tells_whether_one_runs(qwend: Qwend, home: Path) -> None:
    ended = qwend("daemon", "status", "--json")
    assert ended.code == 3
    assert json.loads(ended.out)["running"] is False
    fake = FakeDaemon(str(home))
    fake.start()
    try:
        facts = json.loads(qwend("daemon", "status", "--json").out)
        assert (facts["running"], facts["version"], facts["home"]) == (True, __version__, str(home))
        assert f"qwend {__version__} runs, pid {os.getpid()}" in qwend("daemon", "status").out
        assert "runs already" in qwend("daemon", "start").out
    finally:
        fake.stop()


def test_daemon_stop_waits_until_it_is_gone_and_counts_what_lives_on(
    qwend: Qwend, daemon: FakeDaemon
) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [Q4, CHAT]})

    def stop(_: object) -> dict[str, bool]:
        import threading

        threading.Thread(target=daemon.stop).start()
        return {"stopping": True}

    daemon.calls("POST", "/v1/daemon/stop", stop)
    assert qwend("daemon", "stop").out == "stopped; 1 service lives on\n"
    assert qwend("daemon", "stop").out == "no daemon runs\n"


def test_the_systemd_unit_starts_this_python_and_lets_services_live() -> None:
    unit = installing.unit("linux", {"QWEND_HOME": "/srv/a b%c", "XDG_CONFIG_HOME": "/cfg"})
    assert unit.path == "/cfg/systemd/user/qwend.service"
    assert 'Environment="QWEND_HOME=/srv/a b%%c"' in unit.text
    assert "KillMode=process" in unit.text
    line = next(line for line in unit.text.splitlines() if line.startswith("ExecStart="))
    assert shlex.split(line.removeprefix("ExecStart="))[1:] == ["-P", "-m", "qwend.daemon"]


def test_the_launchd_agent_is_a_property_list_that_lets_services_live() -> None:
    unit = installing.unit(
        "darwin", {"QWEND_HOME": "/Volumes/a & b", "PATH": "/opt/homebrew/bin:/usr/bin", "X": "y"}
    )
    assert unit.path.endswith("/Library/LaunchAgents/qwend.plist")
    agent = plistlib.loads(unit.text.encode())
    assert agent["ProgramArguments"][1:] == ["-P", "-m", "qwend.daemon"]
    assert agent["AbandonProcessGroup"] is True
    assert (agent["RunAtLoad"], agent["KeepAlive"]) == (True, {"SuccessfulExit": False})
    told = {"QWEND_HOME": "/Volumes/a & b", "PATH": "/opt/homebrew/bin:/usr/bin"}
    assert agent["EnvironmentVariables"] == told, "docker is found, and nothing else of the shell is kept"


def test_a_first_install_on_a_mac_meets_no_earlier_agent_and_makes_the_folder_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, path in {"HOME": tmp_path, "QWEND_HOME": tmp_path / "new" / "home", "PATH": tmp_path}.items():
        monkeypatch.setenv(name, str(path))
    launchctl = tmp_path / "launchctl"  # says what macOS's says where the agent is not loaded
    launchctl.write_text(
        f'#!/bin/sh\necho "$1 $2" >> {tmp_path}/asked\n[ "$1" != bootout ] && exit\n'
        "echo 'Boot-out failed: 3: No such process' >&2; exit 3\n"
    )
    launchctl.chmod(0o755)
    unit = installing.unit("darwin")
    domain = f"gui/{os.getuid()}"
    assert unit.install() == [f"wrote {unit.path}", f"ran launchctl bootstrap {domain} {unit.path}"]
    assert (tmp_path / "asked").read_text().splitlines() == [f"bootout {domain}/qwend", f"bootstrap {domain}"]
    log = Path(plistlib.loads(Path(unit.path).read_bytes())["StandardErrorPath"])
    assert log.parent.is_dir(), (
        "launchd makes no folder, and an agent whose log cannot be opened does not start"
    )
    assert log.parent.parent == tmp_path / "new" / "home"
    assert "Boot-out failed" in unit.remove()[0]


def test_install_writes_and_remove_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qwend: Qwend
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", str(tmp_path))
    unit = tmp_path / "config/systemd/user/qwend.service"
    said = qwend("daemon", "install").out.splitlines()
    assert said[0] == f"wrote {unit}"
    assert said[1] == "systemctl is not here; where it is: systemctl --user daemon-reload"
    assert qwend("daemon", "install", "--print").out == unit.read_text()
    assert qwend("daemon", "install", "--remove").out.splitlines()[-1] == f"removed {unit}"
    assert not unit.exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(qwend: Qwend, shell: str) -> None:
    assert "_QWEND_COMPLETE" in qwend("completion", shell).out


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("qwend insp", {"inspect"}),
        ("qwend inspect ", {"q4", "chat"}),
        ("qwend inspect huanhuan/c", {"huanhuan/chat"}),
        ("qwend logs -p hu", {"huanhuan"}),
        ("qwend store pr", {"prune"}),
    ],
)
def test_names_are_completed_from_a_daemon_that_runs(
    qwend: Qwend, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, words: str, offered: set[str]
) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [Q4, CHAT]})
    monkeypatch.setenv("_QWEND_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert {line.partition(",")[2] for line in qwend().out.splitlines()} == offered


def test_completion_starts_no_daemon(qwend: Qwend, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_QWEND_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "qwend inspect ")
    monkeypatch.setenv("COMP_CWORD", "2")
    ended = qwend()
    assert (ended.out.strip(), ended.err) == ("", "")
    assert list(home.iterdir()) == []
