"""A stand-in for Ollama's server, which cannot be had from a package index: the endpoints that qwend uses, as Ollama's
documentation of its API describes them, and answers that repeat the question. It computes nothing. What it is sent and
what it makes lies in memory, or where OLLAMA_MODELS names a folder there, blobs as Ollama keeps them.

    python ollama_server.py --port 11434 [--version 0.14.0] [--cut-uploads 1]
    OLLAMA_HOST=127.0.0.1:11434 python ollama_server.py serve          # as the program is called

`DELETE /api/delete` and `GET /fake/requests` (method and path of every request) are for tests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

KNOWN = (b"qwen2", b"qwen3")
MANIFEST = json.dumps(
    {"layers": [{"mediaType": "application/vnd.ollama.image.model", "size": 397807936}]}, sort_keys=True
).encode()
"""Of the one model that can be pulled, in the form that Ollama's own model folder has."""
LIBRARY = {"qwen2.5:0.5b": hashlib.sha256(MANIFEST).hexdigest()}
"""What a pull can bring: name with tag → digest of its manifest."""


@dataclass
class State:
    version: str = "0.14.0"
    cut_uploads: int = 0
    quantises: bool = True
    folder: Path | None = None
    known: tuple[bytes, ...] = KNOWN
    blobs: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    stays: SimpleQueue[Any] = field(default_factory=SimpleQueue)

    def __post_init__(self) -> None:
        if self.folder is not None and (self.folder / "models.json").is_file():
            self.models = json.loads((self.folder / "models.json").read_text())

    def blob(self, digest: str) -> bytes | None:
        if self.folder is None:
            return self.blobs.get(digest)
        path = self.folder / "blobs" / digest.replace(":", "-")
        return path.read_bytes() if path.exists() else None

    def keep(self, digest: str, data: bytes) -> None:
        if self.folder is None:
            self.blobs[digest] = data
        else:
            (self.folder / "blobs" / digest.replace(":", "-")).write_bytes(data)

    def remember(self) -> None:
        if self.folder is not None:
            (self.folder / "models.json").write_text(json.dumps(self.models))


def tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


class Handler(BaseHTTPRequestHandler):
    state: State
    protocol_version = "HTTP/1.1"

    def note(self) -> None:
        self.state.requests.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self.note()
        known = self.state.blob(self.path.removeprefix("/api/blobs/")) is not None
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.note()
        models = [
            {"name": name, "model": name, **model["listed"]} for name, model in self.state.models.items()
        ]
        answers = {
            "/api/version": {"version": self.state.version},
            "/api/tags": {"models": models},
            "/fake/requests": self.state.requests,
            "/fake/models": self.state.models,
        }
        self.answer(200 if self.path in answers else 404, answers.get(self.path, {"error": "not found"}))

    def do_DELETE(self) -> None:
        self.note()
        found = self.state.models.pop(tagged(self.body()["model"]), None)
        self.state.remember()
        self.answer(200 if found else 404, {})

    def do_POST(self) -> None:
        self.note()
        if self.path.startswith("/api/blobs/"):
            return self.blob(self.path.removeprefix("/api/blobs/"))
        body = self.body()
        match self.path:
            case "/api/create":
                return self.create(body)
            case "/api/pull":
                return self.pull(tagged(body["model"]))
        name = tagged(body["model"])
        if name not in self.state.models:
            return self.answer(404, {"error": f"model '{body['model']}' not found"})
        if "keep_alive" in body:
            stay = body["keep_alive"]
            if isinstance(stay, str) and not re.fullmatch(
                r"-?(\d+(\.\d+)?(ms|s|m|h))+|0", stay
            ):  # as Go reads it
                return self.answer(400, {"error": f'time: missing unit in duration "{stay}"'})
            self.state.stays.put(stay)
        if self.path == "/v1/chat/completions":
            return self.chat(body)
        if self.path == "/api/generate" and not body.get("prompt"):
            return self.answer(
                200, {"model": body["model"], "response": "", "done": True, "done_reason": "load"}
            )
        if self.path == "/api/chat":
            said = {"role": "assistant", "content": body["messages"][-1]["content"]}
            return self.lines([{"model": body["model"], "message": said, "done": True}])
        if self.path == "/api/show":
            return self.answer(200, self.state.models[name]["request"])
        return self.answer(404, {"error": "not found"})

    def blob(self, digest: str) -> None:
        size = int(self.headers["Content-Length"])
        if self.state.cut_uploads:
            self.state.cut_uploads -= 1
            self.rfile.read(min(size, 1000))
            self.close_connection = True
            self.connection.close()
            return None
        data = self.rfile.read(size)
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            return self.answer(400, {"error": "digest mismatch"})
        self.state.keep(digest, data)
        return self.answer(201, {})

    def create(self, body: dict[str, Any]) -> None:
        files = body.get("files") or {}
        sent = [*files.values(), *(body.get("draft_files") or {}).values()]
        missing = [digest for digest in sent if self.state.blob(digest) is None]
        base = body.get("from")
        if missing or (base and tagged(base) not in self.state.models) or not (files or base):
            return self.answer(
                400, {"error": "neither 'from' or 'files' was specified" if not missing else "no blob"}
            )
        if body.get("quantize") and not self.state.quantises:  # as newer ones say
            return self.answer(
                400, {"error": "create-time quantization is only supported for safetensors imports"}
            )
        for name, digest in files.items():
            data = self.state.blob(digest) or b""
            if name.endswith(".gguf") and not any(one in data[:4096] for one in self.state.known):
                return self.lines([{"status": "parsing GGUF"}, {"error": "unknown model architecture"}])
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        model = {
            "request": body,
            "listed": {"digest": digest, "size": 1, "modified_at": "2026-01-01T00:00:00Z"},
        }
        self.state.models[tagged(body["model"])] = model
        self.state.remember()
        return self.lines([{"status": "parsing GGUF"}, {"status": "writing manifest"}, {"status": "success"}])

    def pull(self, name: str) -> None:
        if name not in LIBRARY:
            return self.lines(
                [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]
            )
        listed = {"digest": LIBRARY[name], "size": 1, "modified_at": "2026-01-01T00:00:00Z"}
        self.state.models[name] = {"request": {}, "listed": listed}
        self.state.remember()
        parts = [{"status": "pulling", "total": 10, "completed": done} for done in (0, 5, 10)]
        return self.lines([*parts, {"status": "success"}])

    def chat(self, body: dict[str, Any]) -> None:
        text = body["messages"][-1]["content"]
        usage = {"prompt_tokens": 1, "completion_tokens": max(1, len(text.split())), "total_tokens": 2}
        head = {"id": "chatcmpl-1", "created": 0, "model": body["model"]}
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return self.answer(
                200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            )
        chunks = [
            {**head, "choices": [{"index": 0, "delta": {"content": word}}]}
            for word in re.findall(r"\s*\S+", text)
        ]
        data = "".join(f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n" for chunk in chunks)
        return self.send(200, "text/event-stream", (data + "data: [DONE]\n\n").encode())

    def body(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return value

    def lines(self, values: Iterable[dict[str, Any]]) -> None:
        self.send(200, "application/x-ndjson", "".join(json.dumps(one) + "\n" for one in values).encode())

    def answer(self, status: int, value: Any) -> None:
        self.send(status, "application/json", json.dumps(value, separators=(",", ":")).encode())

    def send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def start(port: int = 0, **state: Any) -> tuple[ThreadingHTTPServer, State]:
    """A server in a thread of this process, and its state."""
    kept = State(**state)
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Fake", (Handler,), {"state": kept}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server, kept


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", nargs="?", choices=["serve"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--version", default="0.14.0")
    parser.add_argument("--cut-uploads", type=int, default=0)
    args = parser.parse_args()
    if args.command:
        args.port = int(os.environ["OLLAMA_HOST"].rpartition(":")[2])
    told = os.environ.get("OLLAMA_MODELS")
    folder = Path(told) if told else None
    server, _ = start(args.port, version=args.version, cut_uploads=args.cut_uploads, folder=folder)
    print(server.server_address[1], flush=True)
    sys.stdin.read() if not args.command else threading.Event().wait()


if __name__ == "__main__":
    main()
