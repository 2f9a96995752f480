"""The ready-made server on a tiny model: it answers as an OpenAI server does, stops when told, says why it fails."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.drivers.conftest import Driver

pytestmark = pytest.mark.e2e


@pytest.fixture
def serve(driver: Callable[[str, str, str], Driver], tiny: Callable[..., Path]) -> Driver:
    made = driver("llama-cpp-server", "llama_cpp", "serve.py")
    made.argv += ["--model", str(tiny("qwen2", "--format", "gguf")), "--ctx-size", "1024", "--threads", "1"]
    return made


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Running:
    """A server that was started; `ask` speaks to it."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{port}"

    def ask(
        self, path: str, body: dict[str, Any] | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read().decode()

    def wait(self) -> Running:
        """Until /health says yes; the process must live on."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()
            try:
                if self.ask("/health")[0] == 200:
                    return self
            except urllib.error.URLError:
                pass
            time.sleep(0.05)
        raise AssertionError("not ready within a minute")


@pytest.fixture
def start(serve: Driver, port: int) -> Iterator[Callable[..., Running]]:
    started: list[subprocess.Popen[str]] = []

    def go(*options: object) -> Running:
        started.append(serve.start("--port", port, *options))
        return Running(started[-1], port)

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


def test_it_answers_health_models_and_chat_under_its_alias(
    start: Callable[..., Running], serve: Driver, port: int
) -> None:
    running = start("--alias", "tiny/chat").wait()
    assert json.loads(running.ask("/v1/models")[2])["data"][0]["id"] == "tiny/chat"
    status, _, text = running.ask("/v1/chat/completions", HELLO)
    answer = json.loads(text)
    assert (status, answer["model"]) == (200, "tiny/chat")
    assert answer["choices"][0]["message"]["content"].strip()
    assert 1 <= answer["usage"]["completion_tokens"] <= 8
    running.process.terminate()
    outcome = serve.finish(running.process)
    assert outcome.code == 0, outcome.err
    rows = {key: row[key] for row in outcome.rows for key in row}
    assert rows["fact"] == {"listening": f"http://127.0.0.1:{port}", "devices": ["CPU"]}
    assert rows["metric"]["name"] == "load_time"
    assert [row["done"] == row["total"] for row in outcome.progress()] == [False, True]


def test_a_stream_ends_with_done(start: Callable[..., Running]) -> None:
    text = start().wait().ask("/v1/chat/completions", HELLO | {"stream": True})[2]
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    assert "".join(
        json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]
    ).strip()


def test_the_vocabulary_and_template_are_qwens(start: Callable[..., Running]) -> None:
    running = start().wait()
    tokens = json.loads(running.ask("/tokenize", {"content": "Hello, world! 你好"})[2])["tokens"]
    assert tokens == [9707, 11, 1879, 0, 220, 108386], "as Qwen's published tokenizer splits it"
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "1", **call}]},
        {"role": "tool", "content": "2", "tool_call_id": "1"},
    ]
    prompt = json.loads(running.ask("/apply-template", {"messages": messages, "tools": tools})[2])["prompt"]
    assert prompt.startswith(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    )
    assert "<tools>\n{" in prompt
    assert "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<tool_call>\n" in prompt
    assert prompt.endswith("<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n")


def test_sigterm_ends_it_within_a_moment_while_a_stream_is_open(
    start: Callable[..., Running], serve: Driver
) -> None:
    running = start().wait()
    endless = {**HELLO, "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(running.url + "/v1/chat/completions", json.dumps(endless).encode())
    with urllib.request.urlopen(request, timeout=60) as stream:
        assert stream.readline().startswith(b"data: ")
        running.process.send_signal(signal.SIGTERM)
        assert serve.finish(running.process).code == 0


def test_sigterm_during_the_load_ends_it_too(start: Callable[..., Running], serve: Driver) -> None:
    running = start()
    while not serve.report.exists():
        assert running.process.poll() is None
    running.process.terminate()
    assert serve.finish(running.process).code in (0, -signal.SIGTERM)


def test_a_taken_port_has_an_exit_code_of_its_own(serve: Driver, port: int) -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        outcome = serve("--port", port)
    assert outcome.code == 98
    assert outcome.error["message"] == f"cannot listen on 127.0.0.1:{port}: Address already in use"


def test_an_address_of_another_machine_is_no_taken_port(serve: Driver, port: int) -> None:
    outcome = serve("--port", port, "--host", "192.0.2.1")
    assert outcome.code == 1
    assert outcome.error["message"].startswith(f"cannot listen on 192.0.2.1:{port}: ")


def test_a_model_that_is_cut_short_fails_at_once_with_the_engines_own_words(
    serve: Driver, port: int, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    whole = next(tiny("qwen2", "--format", "gguf").iterdir()).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    outcome = serve("--port", port, "--model", tmp_path / "cut.gguf")
    assert outcome.code == 1
    assert "data is not within the file bounds, model is corrupted or incomplete" in outcome.error["message"]


def test_with_a_key_file_only_clients_with_a_key_are_served(
    start: Callable[..., Running], tmp_path: Path, serve: Driver
) -> None:
    (tmp_path / "keys").write_text("canary-key\n")
    running = start("--api-key-file", tmp_path / "keys").wait()
    assert running.ask("/v1/chat/completions", HELLO)[0] == 401
    assert running.ask("/v1/chat/completions", HELLO, Authorization="Bearer canary-key")[0] == 200
    running.process.terminate()
    outcome = serve.finish(running.process)
    assert "canary-key" not in outcome.out + outcome.err + json.dumps(outcome.rows)


def test_web_pages_may_not_call_unless_they_are_named(start: Callable[..., Running]) -> None:
    headers = start().wait().ask("/v1/models", Origin="https://evil.example")[1]
    assert headers.get("Access-Control-Allow-Origin", "") == ""


def test_a_step_that_needs_an_accelerator_is_not_served_by_the_processor(serve: Driver, port: int) -> None:
    error = serve("--port", port, "--require-gpu").error
    assert error["message"] == "this build of llama.cpp sees no accelerator"
