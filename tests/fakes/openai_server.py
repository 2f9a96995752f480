"""A server that answers as a service of OpenAI's API does: real HTTP, with answers that a test lays down.

    with OpenAIServer() as server:
        server.answers.append(["Hel", "lo"])            # the pieces of a streamed answer
        server.answers.append((400, {"error": {...}}))  # a refusal
        server.answers.append(["a", event, "b"])        # an Event is waited for before "b"

Every body is kept in `asked`, its headers in `headers`; `left` is set when a client left in mid-stream.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

GATE_TIMEOUT_S = 30.0


class OpenAIServer:
    """See the module."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.left = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.append(json.loads(body))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                server._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """A test's output is no log."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        answer = self.answers.pop(0)
        if isinstance(answer, tuple):
            status, said = answer
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        try:
            for piece in answer:
                if isinstance(piece, threading.Event):
                    piece.wait(GATE_TIMEOUT_S)
                else:
                    delta = piece if isinstance(piece, dict) else {"choices": [{"delta": {"content": piece}}]}
                    handler.wfile.write(b"data: " + json.dumps(delta).encode() + b"\n\n")
            usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
            last = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
            handler.wfile.write(
                b": a comment\n\ndata: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"
            )
        except (BrokenPipeError, ConnectionResetError):
            self.left.set()
