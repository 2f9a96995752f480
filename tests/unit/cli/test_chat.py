"""`qwend chat`: finds the service, asks once with a pipe, talks at a terminal, serves a reference."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.api_server import FakeDaemon
from tests.fakes.openai_server import OpenAIServer
from tests.unit.cli.conftest import Qwend
from tests.unit.cli.samples import CHAT, Json

from qwend.chat import Conversation, Endpoint
from qwend.cli.talking import Talk

ENGINES = [{"name": "llama-cpp/serve"}, {"name": "transformers/serve"}, {"name": "vllm/serve"}]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture
def served(daemon: FakeDaemon, server: OpenAIServer) -> Json:
    """A ready service."""
    chat = CHAT | {"url": server.url}
    daemon.answers("GET", "/v1/steps", {"steps": [chat]})
    daemon.answers("GET", "/v1/recipes", {"recipes": [{"name": chat["recipe"], "state": "ready"}]})
    daemon.answers("GET", "/v1/plugins", {"plugins": [{"name": "all", "engines": ENGINES}]})
    return chat


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_a_pipe_asks_one_question_and_gets_the_answer_alone(
    served: Json, server: OpenAIServer, qwend: Qwend, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers.append([{"choices": [{"delta": {"reasoning_content": "hm"}}]}, "42", "\n\x1b[31m!"])
    pipe(monkeypatch, "What is\nsix times seven?\n")
    ended = qwend("chat", "--system", "Be brief.", "--set", "temperature=0")
    assert (ended.code, ended.out) == (0, "42\n\\x1b[31m!\n")
    assert server.asked[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is\nsix times seven?"},
    ]
    assert (server.asked[0]["model"], server.asked[0]["temperature"]) == (served["step"], 0)


def test_a_message_is_asked_without_a_pipe(served: Json, server: OpenAIServer, qwend: Qwend) -> None:
    server.answers.append(["fine"])
    assert qwend("chat", f"{served['recipe']}/{served['step']}", "-m", "Hi").out == "fine\n"


def test_the_servers_refusal_is_one_line(served: Json, server: OpenAIServer, qwend: Qwend) -> None:
    server.answers.append((400, {"error": {"message": "temperature should be 0 to 2; it is 9"}}))
    ended = qwend("chat", "-m", "Hi", "--set", "temperature=9")
    assert (ended.code, ended.err) == (1, "qwend: temperature should be 0 to 2; it is 9\n")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no service is ready"),
        ([{"state": "stopped", "url": None, "reason": "down"}], "chat is stopped (down)"),
        ([{}, {"step": "other"}], "which service? huanhuan/chat, huanhuan/other are ready"),
    ],
)
def test_which_service_is_meant_is_said_where_it_is_not_clear(
    daemon: FakeDaemon, qwend: Qwend, rows: list[Json], message: str
) -> None:
    said = [CHAT | {"url": "http://127.0.0.1:9"} | change for change in rows]
    daemon.answers("GET", "/v1/steps", {"steps": said})
    ended = qwend("chat", "-m", "Hi")
    assert ended.code == 2
    assert message in ended.err


def test_a_question_is_needed(served: Json, qwend: Qwend, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, " \n")
    assert "there is no question" in qwend("chat").err


@pytest.mark.parametrize(
    ("reference", "gpus", "engine"),
    [
        ("hf:Qwen/Qwen3-0.6B", [], "transformers/serve"),
        ("hf:Qwen/Qwen3-0.6B", [{"index": 0}], "vllm/serve"),
        ("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/x.gguf", [{"index": 0}], "llama-cpp/serve"),
        ("file:model-Q4_K_M.gguf", [], "llama-cpp/serve"),
    ],
)
def test_a_reference_is_served_by_what_fits_and_stopped_afterwards(
    daemon: FakeDaemon,
    served: Json,
    server: OpenAIServer,
    qwend: Qwend,
    reference: str,
    gpus: list[Json],
    engine: str,
) -> None:
    daemon.answers("GET", "/v1/doctor", {"host": {"gpus": gpus}})
    daemon.streams("POST", "/v1/runs", {"run": "01J"}, {"end": {"exit_code": 0, "steps": [served]}})
    daemon.answers("POST", "/v1/runs/01J/release", {"stopped": True})
    server.answers.append(["Hello"])
    ended = qwend("chat", reference, "-m", "Hi", "--with", "context=4096")
    assert (ended.code, ended.out) == (0, "Hello\n")
    (request,) = daemon.seen("POST", "/v1/runs")
    text = request.body["files"][0]["text"]
    assert f"  chat:\n    uses: {engine}\n" in text
    assert f'input: "{reference}"' in text and "context: 4096" in text
    assert text in ended.err, "the recipe that says the same is printed"
    assert request.body["kept"] is False
    assert len(daemon.seen("POST", "/v1/runs/01J/release")) == 1


def test_a_reference_that_is_kept_goes_on(
    daemon: FakeDaemon, served: Json, server: OpenAIServer, qwend: Qwend
) -> None:
    daemon.answers("GET", "/v1/doctor", {"host": {"gpus": []}})
    daemon.streams("POST", "/v1/runs", {"run": "01J"}, {"end": {"exit_code": 0, "steps": [served]}})
    server.answers.append(["Hello"])
    assert qwend("chat", "smoke:qwen2", "-m", "Hi", "--keep").code == 0
    assert daemon.seen("POST", "/v1/runs")[0].body["kept"] is True


# -- at a terminal ---------------------------------------------------------------------------------------------


def talk(server: OpenAIServer, *lines: str, system: str | None = None) -> Conversation:
    """What a user types, and what came of it."""
    typed = list(lines)

    def read(prompt: str) -> str:
        if not typed:
            raise EOFError
        return typed.pop(0)

    conversation = Conversation(Endpoint(server.url, "chat"), system)
    assert Talk(conversation, read=read).go() == 0
    return conversation


def questions(server: OpenAIServer) -> list[str]:
    return [asked["messages"][-1]["content"] for asked in server.asked]


def test_several_lines_make_one_question(server: OpenAIServer) -> None:
    server.answers += [["."]] * 3
    talk(server, '"""one', 'two"""', "three\\", "four", '"""five"""')
    assert questions(server) == ["one\ntwo", "three\nfour", "five"]


def test_commands_change_the_conversation(
    server: OpenAIServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers += [["one"], ["two"], ["three"]]
    path = tmp_path / "talk.json"
    after = talk(
        server, "/system Be brief.", "/set temperature 0", "/set stop end", "/set stop", "Hi", f"/save {path}",
        f"/save {path}", "/retry", "/clear", "/system -", "Hello", "/bogus", "/help", "/bye", "never asked",
    )  # fmt: skip
    assert questions(server) == ["Hi", "Hi", "Hello"]
    assert server.asked[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (server.asked[0]["temperature"], "stop" in server.asked[0]) == (0, False)
    assert server.asked[2]["messages"] == [{"role": "user", "content": "Hello"}]
    assert [one["content"] for one in json.loads(path.read_text())["messages"]] == ["Be brief.", "Hi", "one"]
    assert [one["content"] for one in after.messages] == ["Hello", "three"]
    told = capfd.readouterr().err
    assert (
        f"{path} is there already" in told and "there is no command /bogus" in told and "/save FILE" in told
    )


def test_a_refusal_ends_the_question_and_not_the_chat(
    server: OpenAIServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers += [(400, {"error": {"message": "too long"}}), ["fine"]]
    talk(server, "x" * 100, "Hi")
    said = capfd.readouterr()
    assert "too long" in said.err and said.out == "fine\n"


def test_an_interrupt_stops_the_answer_and_the_chat_goes_on(
    daemon: FakeDaemon, served: Json, server: OpenAIServer, home: Path
) -> None:
    """A real terminal and a real SIGINT."""
    gate = threading.Event()
    server.answers += [["begun ", gate, *["on " * 1000] * 3000], ["still here"]]
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "qwend", "chat"],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        env={**os.environ, "QWEND_HOME": str(home), "TERM": "dumb", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    os.close(terminal)
    seen = _Seen(controller)
    try:
        seen.until("> ")
        os.write(controller, b"Hi\n")
        seen.until("begun ")
        os.kill(process.pid, signal.SIGINT)
        gate.set()
        seen.until("…")
        assert server.left.wait(10)
        seen.until("> ")
        os.write(controller, b"Are you there?\n")
        seen.until("still here")
        os.write(controller, b"/bye\n")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    assert server.asked[1]["messages"][1] == {"role": "assistant", "content": "begun "}


class _Seen:
    """What a terminal showed."""

    def __init__(self, file: int) -> None:
        self._file, self._text = file, ""

    def until(self, wanted: str, timeout: float = 30.0) -> None:
        """Reads until the text comes, and drops what was before it."""
        end = time.monotonic() + timeout
        while wanted not in self._text:
            ready, _, _ = select.select([self._file], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{wanted!r} did not come; there is {self._text!r}"
            self._text += os.read(self._file, 65536).decode("utf-8", "replace")
        self._text = self._text.partition(wanted)[2]
