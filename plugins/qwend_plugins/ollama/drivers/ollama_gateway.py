"""What this step answers on its port: OpenAI's and Ollama's API of one model, passed on to the server.

The model has the step's name here, whatever its name on the server; nothing else of the server can be reached, so that
nobody deletes or pulls models through this port. If somebody removed the model, it is created again.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ollama_server import Server, version_of
from ollama_start import DriverError, say

OPEN = frozenset(
    (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/show",
    )
)
MOST_BODY = 64 * 1024**2


class Left(Exception):
    """The client is gone."""


@dataclass
class Gateway:
    """What is served: `names` here, `real` on the server; `again` creates it anew."""

    server: Server
    names: tuple[str, ...]
    real: str
    again: Callable[[], None]
    key: str | None = None
    keep_alive: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


def duration(said: str) -> int | str:
    """How long a model stays, as Ollama's API reads it: seconds (-1: for ever) as a number, since a text needs its
    unit."""
    return int(said) if re.fullmatch(r"-?\d+", said) else said


def broken_off(answer: http.client.HTTPResponse, last: bytes) -> bool:
    """Whether an answer that is read line by line ended before its end, of which `readline` says nothing: fewer bytes
    came than were promised, or the last chunk never did."""
    if answer.chunked:
        return answer.chunk_left is not None or not last
    return bool(answer.length)


def listen(bound: socket.socket, gateway: Gateway) -> ThreadingHTTPServer:
    """A server on a bound socket, begun in a thread."""
    handler = type("OneModel", (Handler,), {"gateway": gateway})
    server = ThreadingHTTPServer(bound.getsockname(), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = bound
    server.daemon_threads = True
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Handler(BaseHTTPRequestHandler):
    """One request."""

    gateway: Gateway
    _kind = ""
    """The type of the answer that has begun."""

    def do_GET(self) -> None:
        gateway = self.gateway
        if self.path == "/health":
            up = version_of(gateway.server.url) is not None
            return self._answer(200 if up else 503, {"status": "ok" if up else "Ollama does not answer"})
        if not self._allowed():
            return None
        if self.path == "/v1/models":
            models = [
                {"id": name, "object": "model", "created": 0, "owned_by": "ollama"} for name in gateway.names
            ]
            return self._answer(200, {"object": "list", "data": models})
        if self.path == "/api/version":
            return self._answer(200, {"version": gateway.server.version})
        if self.path == "/api/tags":
            return self._answer(200, {"models": [{"name": name, "model": name} for name in gateway.names]})
        return self._refuse(404, f"{self.path} is not answered here")

    def do_POST(self) -> None:
        if not self._allowed():
            return None
        if self.path not in OPEN:
            return self._refuse(404, f"{self.path} is not answered here")
        if (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower() != "application/json":
            return self._refuse(
                415, "a request should be application/json"
            )  # what no web page may send unasked
        length = self.headers.get("Content-Length") or ""
        if not length.isdigit() or int(length) > MOST_BODY:
            return self._refuse(413, f"a request should say its length, at most {MOST_BODY} bytes")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except ValueError:
            return self._refuse(400, "the request is no JSON")
        asked = body.get("model") if isinstance(body, dict) else None
        if asked not in self.gateway.names:
            return self._refuse(
                404, f"there is no model {asked!r} here; there is {', '.join(self.gateway.names)}"
            )
        body["model"] = self.gateway.real
        stay = self.gateway.keep_alive
        if stay is not None and self.path.startswith("/api/") and self.path != "/api/show":
            body.setdefault("keep_alive", duration(stay))
        try:
            self._pass_on(json.dumps(body).encode(), str(asked))
        except Left:
            self.close_connection = True
        except (OSError, http.client.HTTPException) as error:
            return self._broken(f"Ollama does not answer: {str(error) or type(error).__name__}")
        if stay is not None and self.path.startswith("/v1/") and self.gateway.server.child is None:
            self._stay(stay)

    def _stay(self, said: str) -> None:
        """Tells a server that ran before how long the model stays after this answer: OpenAI's API has no word for it,
        and a request of Ollama's own without a prompt says only that. If it fails, the next one may not."""
        path, more = ("/api/embed", {"input": ""}) if "embed" in self.path else ("/api/generate", {})
        told = {"model": self.gateway.real, "keep_alive": duration(said), "stream": False, **more}
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)  # the client has its answer, and does not wait for this
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection, answer = self._ask(json.dumps(told).encode(), path)
            answer.read()
            connection.close()

    def _broken(self, message: str) -> None:
        """The server is gone: told as a refusal or, where an answer has begun, as its last line."""
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client may be gone, too
            if not self._kind:
                return self._refuse(502, message)
            error = message if self.path.startswith("/api/") else {"message": message, "type": "server_error"}
            head = "data: " if self._kind.startswith("text/event-stream") else ""
            self.wfile.write(f"\n{head}{json.dumps({'error': error})}\n\n".encode())

    def _pass_on(self, body: bytes, asked: str) -> None:
        """The server's answer, line by line; a client that leaves closes the request to the server, which ends it."""
        connection, answer = self._ask(body)
        try:
            if answer.status == 404:
                answer.read()
                connection.close()
                with self.gateway.lock:
                    say(f"{self.gateway.real} is gone from the server: creates it again")
                    try:
                        self.gateway.again()
                    except DriverError as error:
                        return self._refuse(502, str(error))
                connection, answer = self._ask(body)
            self._kind = answer.getheader("Content-Type") or "application/json"
            self.send_response(answer.status)
            self.send_header("Content-Type", self._kind)
            self.send_header("Connection", "close")
            self.end_headers()
            real, name = (f'"model":{json.dumps(one)}'.encode() for one in (self.gateway.real, asked))
            line = b""
            while more := answer.readline():
                line = more
                try:
                    self.wfile.write(line.replace(real, name))
                except OSError:
                    raise Left from None
            if broken_off(answer, line):
                raise http.client.IncompleteRead(line, answer.length)
        finally:
            connection.close()

    def _ask(
        self, body: bytes, path: str | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        place = urllib.parse.urlsplit(self.gateway.server.url)
        kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
        connection = kind(place.hostname or "127.0.0.1", place.port)
        connection.request("POST", path or self.path, body, {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def _allowed(self) -> bool:
        if self.gateway.key is None:
            return True
        said = (self.headers.get("Authorization") or "").encode()
        if hmac.compare_digest(said, f"Bearer {self.gateway.key}".encode()):
            return True
        self._refuse(401, "this server asks for a key")
        return False

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        self._answer(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing of /health: every few seconds the same line would say nothing."""
        if self.path != "/health":
            super().log_request(code, size)
