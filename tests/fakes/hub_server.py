"""A hub on loopback that speaks what huggingface_hub and modelscope_hub ask, and misbehaves on request.

    with HubServer() as server:
        repo = server.add("Qwen/Tiny", {"config.json": b"{}", "model.safetensors": data})
        repo.cut["model.safetensors"] = [1000]      # the first answer breaks off after 1000 bytes
        env = {"HF_ENDPOINT": server.url, "MODELSCOPE_ENDPOINT": server.url}

Mirror servers exist (olah works with the drivers, also in front of this server), but all of them need the real hub
behind them, and none can be told to fail. Endpoints, found in the source of huggingface_hub 2.4, modelscope_hub 0.5:

- Hugging Face: ``/api/models|datasets/OWNER/REPO[/revision/REV]`` and ``…/tree/REV``;
  ``/[datasets/]OWNER/REPO/resolve/REV/PATH``, which sends large files on to a store on another host
- ModelScope: ``/api/v1/models/OWNER/REPO/repo/files``, ``/api/v1/datasets/OWNER/REPO/repo/tree``, and
  ``/api/v1/models|datasets/OWNER/REPO/repo?Revision=&FilePath=``
- ``/files/NAME``: the file of that name of ``plain[NAME]``, as any web server has it

Every answer is logged in `answers`, with the bytes that were sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

STEP = 16_384
LARGE = (".safetensors", ".gguf", ".parquet", ".bin")  # kept in Git LFS, as on the real hubs


@dataclass
class Repo:
    """One repository and its moods. `cut[path]`: byte counts after which the next answers break off."""

    files: dict[str, bytes]
    kind: str = "model"
    commit: str = "c" * 40
    branch: str = "main"
    token: str | None = None
    gated: bool = False
    status: int | None = None
    about: dict[str, Any] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    busy: list[int] = field(default_factory=list)
    ignore_ranges: bool = False
    rate: float | None = None

    def revisions(self) -> tuple[str, ...]:
        return (self.branch, "master", self.commit)


@dataclass
class Answer:
    """What one request got: `sent` counts the body's bytes; `authorised` tells whether it carried a token."""

    method: str
    path: str
    status: int
    range: str | None
    authorised: bool
    sent: int = 0


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer:
    """The server; a context manager."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.plain: dict[str, Repo] = {}
        self.answers: list[Answer] = []
        outer = self

        class Handler(_Handler):
            hub = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # The same machine by another name: a redirect there must not carry the token along.
        self.store_url = f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, files: dict[str, bytes], **moods: Any) -> Repo:
        repo = Repo(files, **moods)
        self.repos[(repo.kind, name)] = repo
        return repo

    def sent(self, name: str) -> int:
        """Bytes of bodies sent for a file, over all answers."""
        return sum(answer.sent for answer in self.answers if name in answer.path)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """The test's output is not this log's place."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), {k: v[-1] for k, v in parse_qs(parts.query).items()}
        if match := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(match[1], match[2], match[3] or "main")
        elif match := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/tree/([^/]+)", path):
            self._tree(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve("dataset" if match[1] else "model", match[2], match[3], match[4])
        elif match := re.fullmatch(r"/store/(model|dataset)/([^/]+/[^/]+)/(.+)", path):
            self._content(self.hub.repos[(match[1], match[2])], match[3])
        elif match := re.fullmatch(r"/api/v1/(model|dataset)s/([^/]+/[^/]+)/repo(/files|/tree)?", path):
            self._modelscope(match[1], match[2], match[3], query)
        elif match := re.fullmatch(r"/files/(.+)", path):
            self._content(self.hub.plain[match[1]], match[1])
        else:
            self._json(404, {"error": "no such page"})

    # -- Hugging Face -----------------------------------------------------------------------------------------------

    def _allowed(self, kind: str, name: str, revision: str) -> Repo | None:
        repo = self.hub.repos.get((kind, name))
        authorised = repo is not None and (
            repo.token is None or self.headers.get("Authorization") == f"Bearer {repo.token}"
        )
        if repo is not None and repo.status:
            self._json(repo.status, {"error": "out of order"}, {"Retry-After": "7"})
        elif repo is not None and repo.gated and not authorised:
            code = 403 if self.headers.get("Authorization") else 401
            self._json(
                code,
                {"error": "gated"},
                {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"},
            )
        elif repo is None or not authorised:
            code = 404 if self.headers.get("Authorization") else 401
            self._json(code, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in repo.revisions():
            self._json(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            return repo
        return None

    def _info(self, kind: str, name: str, revision: str) -> None:
        if repo := self._allowed(kind, name, revision):
            siblings = []
            for path, data in repo.files.items():
                row: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": blob(data)}
                if path.endswith(LARGE):
                    row["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
                siblings.append(row)
            self._json(200, {"id": name, "sha": repo.commit, "siblings": siblings, **repo.about})

    def _tree(self, kind: str, name: str, revision: str) -> None:
        if repo := self._allowed(kind, name, revision):
            rows = []
            for path, data in repo.files.items():
                row: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": blob(data)}
                if path.endswith(LARGE):
                    row["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
                rows.append(row)
            self._json(200, rows)

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self._allowed(kind, name, revision)
        if repo is None:
            return
        if path not in repo.files:
            self._json(404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound"})
        elif path.endswith(LARGE):
            data = repo.files[path]
            headers = {
                "Location": f"{self.hub.store_url}/store/{kind}/{name}/{path}",
                "X-Repo-Commit": repo.commit,
                "X-Linked-Size": str(len(data)),
                "X-Linked-ETag": f'"{sha256(data)}"',
            }
            self._json(302, {}, headers)
        else:
            self._content(repo, path, {"X-Repo-Commit": repo.commit})

    # -- ModelScope -------------------------------------------------------------------------------------------------

    def _modelscope(self, kind: str, name: str, view: str | None, query: dict[str, str]) -> None:
        repo = self.hub.repos.get((kind, name))
        if repo is not None and repo.status:
            self._json(repo.status, {"Code": repo.status, "Message": "out of order", "Success": False})
        elif repo is None or query.get("Revision", "master") not in repo.revisions():
            self._json(404, {"Code": 10010205001, "Message": "record not found", "Success": False})
        elif repo.token and self.headers.get("Authorization") != f"Bearer {repo.token}":
            self._json(403, {"Code": 10010205004, "Message": "access denied", "Success": False})
        elif view:
            rows = [
                {"Path": path, "Name": path.rsplit("/", 1)[-1], "Type": "blob", "Size": len(data),
                 "Sha256": sha256(data), "Revision": repo.commit, "CommittedDate": 1_700_000_000}
                for path, data in repo.files.items()
            ]  # fmt: skip
            rows.append(
                {"Path": "folder", "Name": "folder", "Type": "tree", "Size": 0, "Revision": repo.commit}
            )
            self._json(200, {"Code": 200, "Success": True, "Data": {"Files": rows}})
        elif query["FilePath"] in repo.files:
            self._content(repo, query["FilePath"])
        else:
            self._json(404, {"Code": 404, "Message": "no such file", "Success": False})

    # -- answers ----------------------------------------------------------------------------------------------------

    def _content(self, repo: Repo, path: str, headers: dict[str, str] | None = None) -> None:
        """One file with ranges, after the repository's moods."""
        if repo.busy:
            self._json(repo.busy.pop(0), {"error": "busy"}, {"Retry-After": "0"})
            return
        data = repo.files[path]
        if path in repo.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        asked = self.headers.get("Range")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
        start, end = (
            (int(match[1]), min(int(match[2] or len(data)) + 1, len(data))) if match else (0, len(data))
        )
        partial = match is not None and not repo.ignore_ranges
        if not partial:
            start, end = 0, len(data)
        if start >= len(data) and partial:
            self._send(
                416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"}, b"", None, repo.rate
            )
            return
        body = data[start:end]
        head = {
            "Content-Length": str(len(body)),
            "Accept-Ranges": "bytes",
            "ETag": f'"{sha256(data) if path.endswith(LARGE) else blob(data)}"',
            **(headers or {}),
        }
        if partial:
            head["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        cuts = repo.cut.get(path)
        cut = cuts.pop(0) if cuts and self.command == "GET" else None
        self._send(206 if partial else 200, head, body, cut, repo.rate)

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        head = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        self._send(status, head, body, None, None)

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, cut: int | None, rate: float | None
    ) -> None:
        # Logged before the bytes go out: whoever has read them all finds them counted.
        answer = Answer(
            self.command, self.path, status, self.headers.get("Range"), "Authorization" in self.headers
        )
        self.hub.answers.append(answer)
        whole = body[:cut] if cut is not None else body
        with contextlib.suppress(OSError):  # the client may go away at any byte
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            for start in range(0, len(whole) if self.command != "HEAD" else 0, STEP):
                block = whole[start : start + STEP]
                answer.sent += len(block)
                self.wfile.write(block)
                if rate:
                    time.sleep(STEP / rate)
        if cut is not None:
            self.close_connection = True
