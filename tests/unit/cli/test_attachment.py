"""`qwend run` of an interactive engine: the terminal goes to the step and comes back as it was."""

from __future__ import annotations

import os
import pty
import select
import signal
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.api_server import FakeDaemon
from tests.unit.cli.conftest import Qwend
from tests.unit.cli.samples import end, plan
from tests.unit.cli.test_readers import PLUGIN

from qwend.cli.attachment import run

CHAT = {
    "name": "toy/chat",
    "kind": "interactive",
    "summary": "talks",
    "accepts": ["model/gguf"],
    "params_schema": {},
}
PLAN = plan(("run", "chat", "runs in your terminal"))


def terminal(script: str, **env: str) -> dict[str, Any]:
    return {
        "argv": ["sh", "-c", script],
        "env": {"PATH": os.environ["PATH"], **env},
        "inherit": False,
    }


@pytest.fixture
def chats(daemon: FakeDaemon) -> FakeDaemon:
    daemon.answers("GET", "/v1/plugins", {"plugins": [{**PLUGIN, "engines": [CHAT]}]})
    return daemon


def test_the_step_has_the_terminal_its_users_folder_and_the_environment_that_the_daemon_says(
    qwend: Qwend, chats: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_CLIENT", "1")
    chats.streams(
        "POST", "/v1/terminals", PLAN, {"terminal": terminal('echo "${OF_THE_CLIENT-none} $X"; pwd', X="2")}
    )
    ended = qwend("run", "toy/chat", "--from", "file:a.gguf", "--with", "temp=0")
    assert (ended.code, ended.out) == (0, f"none 2\n{os.getcwd()}\n"), "a chat saves where its user is"
    body = chats.requests[-1].body
    assert (body["steps"], body["client"], body["tty"]) == (["chat"], os.getpid(), False)
    assert "uses: toy/chat" in body["files"][0]["text"]


def test_every_key_of_the_request_is_one_that_the_daemon_knows(qwend: Qwend, chats: FakeDaemon) -> None:
    from qwend.api.control import AttachRequest

    chats.streams("POST", "/v1/terminals", PLAN, {"terminal": terminal("true")})
    assert qwend("run", "toy/chat", "--from", "file:a.gguf").code == 0
    assert set(chats.requests[-1].body) <= set(AttachRequest.__struct_fields__)


def test_a_step_of_a_recipe_is_named_with_its_file(qwend: Qwend, chats: FakeDaemon) -> None:
    Path("r.yaml").write_text("version: 1\nname: r\nsteps: {}\n")
    chats.streams("POST", "/v1/terminals", PLAN, {"terminal": terminal("true")})
    assert qwend("run", "talk", "-f", "r.yaml").code == 0
    assert chats.requests[-1].body["steps"] == ["talk"]


@pytest.mark.parametrize("wrong", [["-d"], ["--out", "there"], ["-f", "r.yaml"]])
def test_what_makes_no_sense_at_a_terminal_is_refused(
    qwend: Qwend, chats: FakeDaemon, wrong: list[str]
) -> None:
    ended = qwend("run", "toy/chat", "--from", "file:a.gguf", *wrong)
    assert ended.code == 2 and ended.err.startswith("qwend: ")


def test_a_step_that_fails_is_a_step_that_failed(qwend: Qwend, chats: FakeDaemon) -> None:
    chats.streams("POST", "/v1/terminals", PLAN, {"terminal": terminal("exit 7")})
    ended = qwend("run", "toy/chat", "--from", "file:a.gguf")
    assert ended.code == 1 and "it ended with code 7" in ended.err


def test_a_program_that_is_not_there_is_told(qwend: Qwend, chats: FakeDaemon) -> None:
    gone = {"argv": ["/nowhere/docker"], "env": {}, "inherit": True}
    chats.streams("POST", "/v1/terminals", PLAN, {"terminal": gone})
    ended = qwend("run", "toy/chat", "--from", "file:a.gguf")
    assert ended.code == 1 and "/nowhere/docker cannot be started" in ended.err and "PATH" in ended.err


def test_what_stops_before_the_terminal_is_there_ends_as_an_up_does(qwend: Qwend, chats: FakeDaemon) -> None:
    chats.streams("POST", "/v1/terminals", PLAN, end(code=130, state="cancelled"))
    assert qwend("run", "toy/chat", "--from", "file:a.gguf").code == 130


def test_the_connection_is_held_as_long_as_the_step_runs(
    qwend: Qwend, chats: FakeDaemon, tmp_path: Path
) -> None:
    gate, told = threading.Event(), tmp_path / "told"
    chats.streams("POST", "/v1/terminals", PLAN, {"terminal": terminal(f"echo yes > {told}")}, gate)
    assert qwend("run", "toy/chat", "--from", "file:a.gguf").code == 0
    assert told.read_text() == "yes\n"
    gate.set()


class Screen:
    """A child with a terminal of its own, in which `run` runs a script."""

    def __init__(self, script: str) -> None:
        self.said = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            code = 99
            try:
                code = run(terminal(script))
                sane = termios.tcgetattr(0)[3] & termios.ECHO
                os.write(1, b"sane\n" if sane else b"raw\n")
            finally:
                os._exit(code)

    def until(self, text: bytes) -> None:
        while text not in self.said:
            ready, _, _ = select.select([self.fd], [], [], 60)
            assert ready, f"never said {text!r}: {self.said!r}"
            try:
                piece = os.read(self.fd, 4096)
            except OSError:
                piece = b""
            assert piece, f"ended without {text!r}: {self.said!r}"
            self.said += piece

    def end(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def screens() -> Iterator[list[Screen]]:
    made: list[Screen] = []
    yield made
    for one in made:
        os.close(one.fd)


def test_ctrl_c_is_the_steps_own_affair(screens: list[Screen]) -> None:
    screen = Screen(
        "trap 'echo stopped the answer' INT; echo begun; read line; echo went on; read line; echo over"
    )
    screens.append(screen)
    screen.until(b"begun")
    os.write(screen.fd, b"\x03")
    screen.until(b"stopped the answer")
    os.write(screen.fd, b"a\nb\n")
    screen.until(b"over")
    assert screen.end() == 0


def test_a_terminal_that_the_step_left_raw_is_mended(screens: list[Screen]) -> None:
    screen = Screen("stty raw -echo; echo begun; kill -KILL $$")
    screens.append(screen)
    screen.until(b"sane")
    assert screen.end() == 1


def test_a_signal_that_ends_the_client_ends_the_step(screens: list[Screen]) -> None:
    screen = Screen("trap 'echo told; exit 4' TERM; echo begun; while :; do read line || exit 5; done")
    screens.append(screen)
    screen.until(b"begun")
    os.kill(screen.pid, signal.SIGTERM)
    os.write(screen.fd, b"\n")  # some shells handle a signal when `read` is over
    screen.until(b"told")
    assert screen.end() == 1
