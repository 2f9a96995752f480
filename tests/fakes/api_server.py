"""A daemon that only answers: a real unix socket and real HTTP, with answers that a test lays down.

    daemon.answers("GET", "/v1/steps", {"steps": []})
    daemon.streams("POST", "/v1/runs", {"run": "01J"}, wait, {"end": {...}})     # wait is a threading.Event

Every request is kept in `requests`. Endpoints that a test did not lay down answer 404 as the daemon does.
"""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from qwend import __version__, paths

Json = dict[str, Any]
Item = Json | bytes | threading.Event
GATE_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class _Answer:
    items: list[Item]
    status: int = 200
    stream: bool = False
    make: Callable[[Request], Json] | None = None
    cut: bool = False


@dataclass
class FakeDaemon:
    """See the module. `home` is the QWEND_HOME that it serves."""

    home: str
    version: str = __version__
    api: int = 1
    requests: list[Request] = field(default_factory=list)
    asked: threading.Condition = field(default_factory=threading.Condition)
    _answers: dict[tuple[str, str], _Answer] = field(default_factory=dict)
    _stopping: threading.Lock = field(default_factory=threading.Lock)
    _server: socketserver.ThreadingUnixStreamServer | None = None

    def answers(self, method: str, path: str, body: Json, status: int = 200) -> None:
        """Lays down one JSON answer."""
        self._answers[method, path] = _Answer([body], status)

    def calls(self, method: str, path: str, make: Callable[[Request], Json]) -> None:
        """Lays down a function that makes the answer."""
        self._answers[method, path] = _Answer([], make=make)

    def streams(self, method: str, path: str, *items: Item, cut: bool = False) -> None:
        """Lays down a stream: objects become ndjson lines, bytes go as they are, an Event is waited for.
        `cut` ends the connection without the end of the body."""
        self._answers[method, path] = _Answer(list(items), stream=True, cut=cut)

    def fails(self, method: str, path: str, status: int, **error: Any) -> None:
        """Lays down an error as the daemon words it."""
        body: Json = {
            "kind": "QwendError",
            "code": "failed",
            "message": "",
            "hint": None,
            "where": None,
            "details": [],
        }
        self.answers(method, path, {"error": {**body, **error}}, status)

    def seen(self, method: str, path: str) -> list[Request]:
        """The requests to this endpoint so far."""
        return [one for one in self.requests if (one.method, one.path) == (method, path)]

    def wait_for(self, method: str, path: str, count: int = 1) -> list[Request]:
        """Waits until so many requests came to this endpoint."""
        with self.asked:
            done = self.asked.wait_for(lambda: len(self.seen(method, path)) >= count, GATE_TIMEOUT_S)
        assert done, f"nobody asked for {method} {path}"
        return self.seen(method, path)

    def start(self) -> None:
        """Listens where a client of this home looks."""
        self.answers("GET", "/v1/version", self.hello())
        path = paths.socket(self.home)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        self._server = _Server(path, _handler(self))
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def stop(self) -> None:
        """Listens no more; a second call does nothing, from whichever thread."""
        with self._stopping:
            if self._server is not None:
                self._server.shutdown()
                self._server.server_close()
                os.unlink(str(self._server.server_address))
                self._server = None

    def hello(self) -> Json:
        return {
            "version": self.version,
            "api": self.api,
            "pid": os.getpid(),
            "instance": "fake",
            "started": 0.0,
        }

    def answer_to(self, request: Request) -> _Answer:
        with self.asked:
            self.requests.append(request)
            self.asked.notify_all()
        found = self._answers.get((request.method, request.path))
        if found is None:
            error = {"kind": "UsageError", "code": "no-such-route", "message": f"no route {request.path}"}
            return _Answer([{"error": error}], 404)
        return _Answer([found.make(request)]) if found.make is not None else found


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


def _handler(daemon: FakeDaemon) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: Any) -> None:
            """A test's output is its own."""

        def _serve(self) -> None:
            self.close_connection = True
            url = urlsplit(self.path)
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            request = Request(self.command, unquote(url.path), query, json.loads(data) if data else None)
            try:
                self._reply(daemon.answer_to(request))
            except (BrokenPipeError, ConnectionResetError):
                return  # the client went away: its business

        def _reply(self, answer: _Answer) -> None:
            self.send_response(answer.status)
            if not answer.stream:
                body = json.dumps(answer.items[0]).encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for item in answer.items:
                if isinstance(item, threading.Event):
                    self.wfile.flush()
                    item.wait(GATE_TIMEOUT_S)
                else:
                    self._chunk(item if isinstance(item, bytes) else json.dumps(item).encode() + b"\n")
            if not answer.cut:
                self._chunk(b"")

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):X}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

    return Handler
