"""The daemon's API over its unix socket: HTTP/1.1 on a plain socket, light to import.

Answers are decoded JSON; a failure that the daemon reports is raised as the QwendError that it is; a daemon that
is gone, or goes away in the middle of an answer, is Unreachable. `connecting.connect` gives a Client of a daemon
that runs, starting one if none does.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
from collections.abc import Iterator
from typing import Any

from qwend import __version__
from qwend.errors import QwendError, Unreachable

API = 1
"""The version of the API that this client speaks; the path of every endpoint begins with it."""

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 120.0
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

Json = dict[str, Any]


class Client:
    """A daemon's API. Every request has a connection of its own, so a Client may be used from a signal handler
    while a stream of the same Client is being read."""

    def __init__(self, path: str, *, timeout_s: float | None = ANSWER_TIMEOUT_S) -> None:
        self.path = path
        self.timeout_s = timeout_s

    def get(self, target: str, **query: object) -> Json:
        """The answer to a GET; a query parameter that is None is left out."""
        return self._answer("GET", target, None, query)

    def post(self, target: str, body: Json | None = None) -> Json:
        """The answer to a POST."""
        return self._answer("POST", target, body or {}, {})

    def stream(self, method: str, target: str, body: Json | None = None, **query: object) -> Iterator[Json]:
        """The objects of an ndjson stream as they come, until its end; may wait for ever between two.

        An object `{"error": …}` is raised. A signal handler may run while this waits; the stream goes on.
        """
        with _Exchange(self.path, None) as exchange:
            exchange.ask(method, _target(target, query), body)
            rest = b""
            for block in exchange.blocks():
                *lines, rest = (rest + block).split(b"\n")
                yield from map(_object, filter(None, lines))
            if rest.strip():
                yield _object(rest)

    def text(self, target: str, **query: object) -> Iterator[bytes]:
        """The blocks of a stream of text, as they come."""
        with _Exchange(self.path, None) as exchange:
            exchange.ask("GET", _target(target, query), None)
            yield from exchange.blocks()

    def _answer(self, method: str, target: str, body: Json | None, query: dict[str, object]) -> Json:
        with _Exchange(self.path, self.timeout_s) as exchange:
            exchange.ask(method, _target(target, query), body)
            return _object(b"".join(exchange.blocks()))


class _Exchange:
    """One request and its answer on a connection of its own."""

    def __init__(self, path: str, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._file: io.BufferedReader | None = None
        self._headers: dict[str, str] = {}

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._socket.close()

    def ask(self, method: str, target: str, body: Json | None) -> None:
        """Sends the request and reads the head of the answer; raises what the daemon reports."""
        payload = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: qwend\r\nConnection: close\r\n"
            f"User-Agent: qwend/{__version__}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\n\r\n"
        )
        try:
            self._socket.settimeout(CONNECT_TIMEOUT_S)
            self._socket.connect(self._path)
            self._socket.settimeout(self._timeout_s)
            # Who is refused in the middle of what it says finds the reason in the answer.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._socket.sendall(head.encode() + payload)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            raise Unreachable(
                "no daemon runs", code="no-daemon", hint="start it with `qwend daemon start`"
            ) from None
        except PermissionError:
            raise Unreachable(f"the socket {self._path} belongs to another user", code="not-yours") from None
        except OSError as error:
            raise _gone(error) from None
        self._file = self._socket.makefile("rb")
        self._read_head(method, target)

    def blocks(self) -> Iterator[bytes]:
        """The body, in the pieces in which it comes."""
        assert self._file is not None
        try:
            if self._headers.get("transfer-encoding", "").lower() == "chunked":
                while size := int(self._file.readline().partition(b";")[0], 16):
                    yield self._whole(size)
                    self._file.readline()
            elif "content-length" in self._headers:
                yield self._whole(int(self._headers["content-length"]))
            else:
                while block := self._file.read1(65536):
                    yield block
        except (OSError, ValueError) as error:
            raise _gone(error) from None

    def _read_head(self, method: str, target: str) -> None:
        assert self._file is not None
        try:
            status = self._file.readline(65536).split(None, 2)
            while (line := self._file.readline(65536)) not in (b"\r\n", b"\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                self._headers[name.strip().lower()] = value.strip()
            code = int(status[1])
        except (OSError, ValueError, IndexError) as error:
            raise _gone(error) from None
        if code >= 400:
            raise _reported(code, f"{method} {target}", b"".join(self.blocks()))

    def _whole(self, size: int) -> bytes:
        assert self._file is not None
        block = self._file.read(size)
        if len(block) < size:
            raise ValueError("cut off")
        return block


def _gone(error: Exception) -> Unreachable:
    if isinstance(error, TimeoutError):
        return Unreachable(
            "the daemon does not answer", code="timeout", hint="its log says why: `qwend daemon status`"
        )
    return Unreachable(
        "the daemon went away in the middle of an answer",
        code="daemon-gone",
        hint="services live on; `qwend daemon start` starts it again and it goes on where it was",
    )


def _reported(status: int, what: str, body: bytes) -> QwendError:
    try:
        error = QwendError.from_dict(json.loads(body)["error"])
        if error.code == "no-such-route":
            error.hint = (
                "the daemon began before qwend was renewed: `qwend daemon stop`, and the next command starts it anew; "
                "services live on"
            )
        return error
    except (ValueError, KeyError, TypeError):
        return QwendError(f"the daemon answered {status} to {what}", code=f"http-{status}")


def _object(line: bytes) -> Json:
    try:
        value = json.loads(line)
    except ValueError:
        raise QwendError("the daemon's answer is not JSON", code="bad-answer") from None
    if not isinstance(value, dict):
        raise QwendError("the daemon's answer is not a JSON object", code="bad-answer")
    if set(value) == {"error"}:
        raise QwendError.from_dict(value["error"])
    return value


def _target(target: str, query: dict[str, object]) -> str:
    """A path whose segments are already quoted (see `quote`), with its query."""
    pairs = [f"{name}={quote(_spelled(value))}" for name, value in query.items() if value is not None]
    return f"{target}?{'&'.join(pairs)}" if pairs else target


def _spelled(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def quote(text: str) -> str:
    """Percent-encoded for a path segment or a query (`urllib.parse` would cost 2 ms of import)."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in data)
