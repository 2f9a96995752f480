"""Ollama's server is found or refused; the step's port answers for one model of it, and for nothing else."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ollama_gateway import Gateway, listen
from ollama_serve import bind
from ollama_server import Server, find, lend, numbers
from ollama_start import DriverError
from tests.fakes.ollama_server import State, start

JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"
FAKE = Path(__file__).parents[2] / "fakes" / "ollama_server.py"


@pytest.fixture
def fake() -> Iterator[tuple[str, State]]:
    """A stand-in for Ollama with one model, as another program would have made it."""
    server, state = start()
    state.models["real:1"] = {"request": {}, "listed": {"digest": "d", "size": 1}}
    yield f"http://127.0.0.1:{server.server_address[1]}", state
    server.shutdown()
    server.server_close()


@pytest.fixture
def gate(fake: tuple[str, State]) -> Iterator[tuple[str, Gateway]]:
    url, state = fake

    def again() -> None:
        state.models["real:1"] = {"request": {}, "listed": {"digest": "d", "size": 1}}

    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    gateway = Gateway(Server(url, "0.14.0"), ("chat", "qwen"), "real:1", again, keep_alive="10m")
    server = listen(bound, gateway)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}", gateway
    server.shutdown()
    server.server_close()


def ask(url: str, body: Any, head: dict[str, str] = JSON) -> tuple[int, str]:
    request = urllib.request.Request(url, json.dumps(body).encode(), head)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def talk(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": [{"role": "user", "content": text}], **more}


def test_the_model_answers_to_the_steps_name_and_its_aliases(gate: tuple[str, Gateway]) -> None:
    url, _ = gate
    for name in ("chat", "qwen"):
        status, text = ask(url + CHAT, talk("hello", model=name))
        assert (status, json.loads(text)["model"]) == (200, name)
    status, text = ask(f"{url}/api/chat", talk("hello"))
    assert json.loads(text)["message"]["content"] == "hello"


def test_a_stream_is_passed_on_line_by_line_under_the_asked_name(gate: tuple[str, Gateway]) -> None:
    status, text = ask(gate[0] + CHAT, talk("one two", stream=True))
    lines = [line for line in text.splitlines() if line]
    assert status == 200
    assert [json.loads(line[6:])["model"] for line in lines[:-1]] == ["chat", "chat"]
    assert lines[-1] == "data: [DONE]"


def test_who_leaves_a_stream_ends_its_request_to_the_server(gate: tuple[str, Gateway]) -> None:
    """Ollama stops generating when the connection of a request closes."""
    ended = threading.Event()

    class Endless(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(100_000):
                    self.wfile.write(b"data: word " + b"x" * 1000 + b"\n")
            except OSError:
                ended.set()

        def log_request(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url, gateway = gate
        gateway.server = Server(f"http://127.0.0.1:{server.server_address[1]}", "0.14.0")
        body = json.dumps(talk("hello", stream=True)).encode()
        with urllib.request.urlopen(urllib.request.Request(url + CHAT, body, JSON), timeout=20) as answer:
            assert answer.readline().startswith(b"data: word")
        assert ended.wait(20)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("said", "told"), [("10m", "10m"), ("-1", -1), ("300", 300), ("0", 0)])
@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
def test_a_server_that_ran_before_is_told_how_long_the_model_stays_whichever_api_is_asked(
    gate: tuple[str, Gateway], fake: tuple[str, State], path: str, said: str, told: str | int
) -> None:
    gate[1].keep_alive = said
    assert ask(gate[0] + path, talk("hello"))[0] == 200
    assert fake[1].stays.get(timeout=60) == told
    assert fake[1].stays.empty()


def test_where_nobody_says_how_long_a_model_stays_the_server_decides(
    gate: tuple[str, Gateway], fake: tuple[str, State]
) -> None:
    gate[1].keep_alive = None
    assert ask(gate[0] + CHAT, talk("hello"))[0] == 200
    assert ask(gate[0] + "/api/chat", talk("hello"))[0] == 200
    assert fake[1].stays.empty()
    assert "POST /api/generate" not in fake[1].requests


@pytest.mark.parametrize(
    ("path", "kind", "ending"),
    [
        (CHAT, "text/event-stream", r'\ndata: {"error": {"message": "Ollama does not answer: .+"'),
        (CHAT, "application/json", r'\n{"error": {"message": "Ollama does not answer: .+"'),
        ("/api/chat", "application/x-ndjson", r'\n{"error": "Ollama does not answer: .+"}'),
    ],
)
@pytest.mark.parametrize("head", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_an_answer_that_the_server_breaks_off_ends_with_the_reason(
    gate: tuple[str, Gateway], path: str, kind: str, ending: str, head: str
) -> None:
    begun = b"data: {}\n"

    class Dying(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            part = begun if head.startswith("Content") else b"%x\r\n%s\r\n" % (len(begun), begun)
            self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{head}\r\n\r\n".encode() + part)

        def log_request(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dying)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        gate[1].server = Server(f"http://127.0.0.1:{server.server_address[1]}", "0.14.0")
        gate[1].keep_alive = None
        status, text = ask(gate[0] + path, talk("hello"))
    finally:
        server.shutdown()
        server.server_close()
    assert (status, text.startswith(begun.decode())) == (200, True)
    assert re.search(ending, text)
    assert "HTTP/1" not in text


def test_a_server_that_is_gone_is_told_as_a_refusal(gate: tuple[str, Gateway]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: whoever asks is refused
        gate[1].server = Server(f"http://127.0.0.1:{nobody.getsockname()[1]}", "0.14.0")
        status, text = ask(gate[0] + CHAT, talk("hello"))
    assert status == 502
    assert json.loads(text)["error"]["message"].startswith("Ollama does not answer: ")


def test_the_port_is_held_from_the_start_so_that_nobody_takes_it_while_the_model_is_created() -> None:
    with bind("127.0.0.1", 0) as bound, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(bound.getsockname())
        with pytest.raises(DriverError, match="cannot listen on") as error:
            bind("127.0.0.1", bound.getsockname()[1])
        assert error.value.code == 98
        with socket.create_connection(bound.getsockname(), timeout=20):
            pass


def test_a_model_that_somebody_removed_is_created_again(
    gate: tuple[str, Gateway], fake: tuple[str, State]
) -> None:
    fake[1].models.clear()
    assert ask(gate[0] + CHAT, talk("hello"))[0] == 200
    assert "real:1" in fake[1].models


@pytest.mark.parametrize(
    ("path", "body", "head", "status"),
    [
        (CHAT, talk("x", model="real:1"), JSON, 404),
        (CHAT, talk("x", model=None), JSON, 404),
        (CHAT, ["chat"], JSON, 404),
        ("/api/delete", {"model": "chat"}, JSON, 404),
        ("/api/pull", {"model": "chat"}, JSON, 404),
        ("/api/create", {"model": "chat"}, JSON, 404),
        (CHAT, talk("x"), {"Content-Type": "text/plain"}, 415),
    ],
)
def test_nothing_but_the_model_can_be_reached(
    gate: tuple[str, Gateway],
    fake: tuple[str, State],
    path: str,
    body: Any,
    head: dict[str, str],
    status: int,
) -> None:
    assert ask(gate[0] + path, body, head)[0] == status
    assert not any(request.startswith("POST") for request in fake[1].requests)


def test_a_key_is_asked_of_everything_but_health(gate: tuple[str, Gateway]) -> None:
    url, gateway = gate
    gateway.key = "sesame"
    assert ask(url + CHAT, talk("x"))[0] == 401
    assert ask(url + CHAT, talk("x"), {**JSON, "Authorization": "Bearer wrong"})[0] == 401
    assert ask(url + CHAT, talk("x"), {**JSON, "Authorization": "Bearer sesame"})[0] == 200
    with urllib.request.urlopen(f"{url}/health", timeout=20) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/v1/models", timeout=20)


def test_a_running_server_is_taken(fake: tuple[str, State]) -> None:
    assert find(fake[0], None, "5m") == Server(fake[0], "0.14.0")


def test_a_server_that_is_too_old_is_refused_with_both_versions(fake: tuple[str, State]) -> None:
    fake[1].version = "0.3.9"
    with pytest.raises(DriverError, match=r"0\.3\.9 .* too old: 0\.5\.5"):
        find(fake[0], None, "5m")


def test_without_any_ollama_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_server._PLACES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DriverError) as error:
        find(None, True, "5m")
    assert "there is no Ollama here" in str(error.value)
    assert "ollama.com" in error.value.hint


def test_an_installed_program_is_run_on_a_port_of_its_own_and_prunes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ollama"
    program.write_text(f'#!/bin/sh\nenv > {tmp_path}/env\nexec {sys.executable} {FAKE} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv(
        "QWEND_PATH", f"{tmp_path}:/nonexistent"
    )  # what the user finds, and this step does not
    server = find(None, True, "7m")
    assert server.child is not None
    server.child.terminate()
    server.child.wait()
    told = (tmp_path / "env").read_text().splitlines()
    assert "OLLAMA_NOPRUNE=1" in told
    assert "OLLAMA_KEEP_ALIVE=7m" in told
    assert f"OLLAMA_HOST=127.0.0.1:{server.url.rpartition(':')[2]}" in told


def test_a_container_runs_its_own_program_and_asks_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ollama"
    program.write_text(f'#!/bin/sh\nenv > {tmp_path}/env\nexec {sys.executable} {FAKE} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr("ollama_server.CONTAINER", str(program))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("NO_PROXY", "intra.example")
    monkeypatch.setenv("HOME", str(tmp_path / "scratch"))
    server = find(None, None, "5m", tmp_path)
    assert server.child is not None
    server.child.terminate()
    server.child.wait()
    told = (tmp_path / "env").read_text().splitlines()
    assert {f"OLLAMA_MODELS={tmp_path}", f"HOME={tmp_path}/scratch"} <= set(told)
    assert "NO_PROXY=intra.example,127.0.0.1,localhost,::1" in told


def test_a_gguf_is_lent_by_its_digest_and_what_was_lent_before_is_not(tmp_path: Path) -> None:
    models, blobs = tmp_path / "models", tmp_path / "models" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "sha256-old").symlink_to(tmp_path / "gone.gguf")
    (blobs / "sha256-pulled").write_text("its own")
    for name in ("m.gguf", "model.safetensors"):
        (tmp_path / name).write_text(name)
    lend(
        models,
        {name: (tmp_path / name, f"sha256:{name[0]}{name[-1]}") for name in ("m.gguf", "model.safetensors")},
    )
    assert sorted(path.name for path in blobs.iterdir()) == ["sha256-mf", "sha256-pulled"]
    assert (blobs / "sha256-mf").resolve() == tmp_path / "m.gguf"


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.14.0", (0, 14, 0)), ("v0.5.5-rc1", (0, 5, 5)), ("1", (1, 0, 0)), ("odd", (0, 0, 0))],
)
def test_versions_are_read(text: str, value: tuple[int, ...]) -> None:
    assert numbers(text) == value
