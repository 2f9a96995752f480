"""An interactive step natively: the client is told a command that needs nothing more."""

# ruff: noqa: ASYNC221 (a test has its loop to itself)

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qwend.adapters.native.runtime import NativeRuntime
from qwend.cli.attachment import run
from qwend.effects import Order, Realised, Screen
from qwend.model.launch import DriverRef, InputRef, Launch, LaunchFile, SecretRef
from qwend.model.service import Identity

SCRIPT = 'read line; echo "$TERM heard $line in $(pwd), of $1"'


def order(folder: Path, **more: Any) -> Order:
    (folder / "model").mkdir()
    (folder / "model" / "a.gguf").write_text("")
    launch = Launch(
        ("sh", DriverRef("talk.sh"), InputRef("base", "*.gguf")), files=(LaunchFile("talk.sh", SCRIPT),)
    )
    fields: dict[str, Any] = {
        "identity": Identity("i", "run", "recipe", "chat", "f" * 64, 1),
        "launch": launch,
        "image": Realised("test", "venv", "/usr", "0" * 64),
        "inputs": {"base": str(folder / "model")},
        "log": str(folder / "work" / "log"),
        "report": str(folder / "work" / "report.jsonl"),
        "work": str(folder / "work"),
        "scratch": str(folder / "work" / "scratch"),
    }
    return Order(**{**fields, **more})


async def test_the_command_finds_its_driver_and_its_input_from_its_users_folder(tmp_path: Path) -> None:
    runtime = NativeRuntime(tmp_path / "home", "i")
    terminal = await runtime.attach(order(tmp_path), Screen(term="vt100"))
    ended = subprocess.run(
        terminal.argv, env=terminal.env, cwd=tmp_path, input="hello\n", capture_output=True, text=True, check=False
    )  # fmt: skip
    model = tmp_path / "model" / "a.gguf"
    assert (ended.stdout, ended.returncode) == (f"vt100 heard hello in {tmp_path}, of {model}\n", 0)
    assert not (tmp_path / "work" / "log").exists(), "what is said at a terminal is written nowhere"


async def test_secrets_are_descriptors_that_no_argument_no_environment_and_no_file_shows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = 'cat "$1" && echo , && cat "$2" "$1"'
    launch = Launch(
        ("sh", DriverRef("talk.sh"), SecretRef("b"), SecretRef("a")), files=(LaunchFile("talk.sh", script),)
    )
    runtime = NativeRuntime(tmp_path / "home", "i")
    terminal = await runtime.attach(
        order(tmp_path, launch=launch, secrets={"a": "canary", "b": "bird\n"}), Screen()
    )
    assert "canary" not in repr(terminal) + repr(terminal.argv) + repr(terminal.env)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]  # noqa: ASYNC240 (a test has its loop to itself)
    assert not [path for path in files if "canary" in path.read_text()]
    assert run(msgspec.json.decode(msgspec.json.encode(terminal))) == 0
    assert capfd.readouterr().out == "bird\n,\ncanarybird\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(terminal.secrets[0][0])
