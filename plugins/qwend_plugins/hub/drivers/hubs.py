"""What `resolve` and `fetch` share: references, a hub's face, failures in one line, reports.

Travels with both drivers, which import it from their own folder; runs inside the hub image (huggingface_hub,
modelscope_hub, requests) and imports nothing of qwend. Endpoints, tokens and caches are those that the two libraries
find (``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``, ``MODELSCOPE_ENDPOINT``, ``MODELSCOPE_CACHE`` and so on).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import requests

TIMEOUT = (10.0, 30.0)  # seconds to connect, seconds without a byte
_NAME = r"[A-Za-z0-9][\w.-]*"
REFERENCE = re.compile(
    rf"(?P<scheme>hf|modelscope):(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[\w.-]+))?"
    r"(?:/(?P<file>[^?#]+))?(?:\?(?P<query>[^#]*))?"
)
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class HubError(Exception):
    """A known failure: one line for the user, a hint, a `kind` for programs, and the seconds that a hub asks to wait.

    Kinds: bad-reference, not-found, revision-not-found, file-not-found, unauthorised, gated, rate-limited,
    hub-failure, no-network, ambiguous, pickle-only, nothing-usable, corrupt, no-space.
    """

    def __init__(self, kind: str, message: str, hint: str = "", wait: float = 0.0) -> None:
        super().__init__(message)
        self.kind, self.hint, self.wait = kind, hint, wait


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def fail(program: str, error: HubError) -> NoReturn:
    """Tell a known failure and end with exit code 1."""
    report(error={"message": str(error), "hint": error.hint, "kind": error.kind})
    print(f"{program}: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
    sys.exit(1)


@dataclass(frozen=True)
class Reference:
    """``hf:owner/repo@revision/file?subset=…`` in its parts."""

    scheme: str
    repo: str
    revision: str | None = None
    file: str | None = None
    query: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Reference:
        match = REFERENCE.fullmatch(text)
        if match is None:
            raise HubError(
                "bad-reference", f"{text!r} is no reference", "write hf:owner/repo[@revision][/file]"
            )
        query = {key: values[-1] for key, values in parse_qs(match["query"] or "").items()}
        if unknown := sorted(query.keys() - {"subset", "split"}):
            raise HubError(
                "bad-reference", f"{text!r}: unknown {unknown[0]!r}", "known are ?subset= and ?split="
            )
        return cls(match["scheme"], match["repo"], match["revision"], match["file"], query)


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository: size in bytes; `sha256` of its content, or its git `oid` (sha1), as the hub tells."""

    path: str
    size: int | None
    sha256: str | None = None
    oid: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit. `parameters` and `about` are what the hub itself knows of a model or dataset."""

    revision: str
    files: tuple[RemoteFile, ...]
    parameters: int | None = None
    about: dict[str, Any] = field(default_factory=dict)


class Hub:
    """One repository of a hub."""

    name = ""
    token_hint = ""

    def __init__(self, repo: str, kind: str, token: str | None = None) -> None:
        self.repo, self.kind, self.token = repo, kind, token
        self.session = requests.Session()

    def snapshot(self, revision: str | None) -> Snapshot:
        """List the repository at a branch, tag or commit (None: the hub's default branch)."""
        raise NotImplementedError

    def request(self, path: str, revision: str) -> tuple[str, dict[str, str]]:
        """URL and headers that fetch one file."""
        raise NotImplementedError

    def cached(self, file: RemoteFile, revision: str) -> Path | None:
        """Where the user's own cache holds a complete copy of the file, if it does."""
        raise NotImplementedError

    def cached_snapshot(self, revision: str | None) -> Snapshot | None:
        """The repository as the user's own cache holds it; None if it cannot tell the commit."""
        return None

    @property
    def where(self) -> str:
        return f"{self.name} has no {self.kind} {self.repo}"

    def read(self, path: str, revision: str, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive) of a file, fewer at its end."""
        url, headers = self.request(path, revision)
        headers |= {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with stream(self, url, headers, path) as response:
            skip = start if response.status_code == 200 else 0  # the server ignored the range
            data = bytearray()
            for block in response.iter_content(1 << 16):
                data += block
                if len(data) >= skip + end - start:
                    break
        return bytes(data[skip : skip + end - start])


def stream(hub: Hub | None, url: str, headers: dict[str, str], path: str) -> requests.Response:
    """GET with the body still to be read; raise HubError for what the status or the network says."""
    session = hub.session if hub else requests.Session()
    host = urlsplit(url).netloc
    try:
        response = session.get(url, headers=headers, timeout=TIMEOUT, stream=True)
    except requests.RequestException as error:
        raise no_network(host, error) from None
    if response.status_code < 400:
        return response
    response.close()
    raise refused(response, hub, path, host)


def refused(response: requests.Response, hub: Hub | None, path: str, host: str) -> HubError:
    """The failure that an HTTP status from 400 on stands for."""
    status = response.status_code
    if status == 416:
        return HubError("corrupt", f"{path}: {host} has fewer bytes than were fetched before")
    return by_status(status, f"{host} answers {status} for {path}", hub, response.headers.get("Retry-After"))


def by_status(status: int | None, said: str, hub: Hub | None, wait: object = None) -> HubError:
    """A HubError for a status. `said` is the whole sentence, `wait` what Retry-After asks for."""
    hint = hub.token_hint if hub else ""
    seconds = float(str(wait)) if re.fullmatch(r"\d{1,6}(\.\d+)?", str(wait)) else 0.0
    match status:
        case 401:
            return HubError("unauthorised", said, hint)
        case 403:
            return HubError("gated", said, hint)
        case 404 | 410:
            return HubError("file-not-found", said)
        case 429:
            hint = f"it asks to wait {seconds:g} s" if seconds else "try again later"
            return HubError("rate-limited", said, hint, seconds)
        case _:
            return HubError("hub-failure", said, "try again later, or name a mirror", seconds)


def no_network(host: str, error: BaseException) -> HubError:
    """The failure to reach a host, its cause in a few words."""
    text = str(error)
    causes = {
        "name resolution": "its name is unknown here", "getaddrinfo": "its name is unknown here",
        "Name or service": "its name is unknown here", "nodename nor": "its name is unknown here",
        "refused": "connection refused", "timed out": "no answer in time", "unreachable": "no route to it",
        "CERTIFICATE": "its certificate is not trusted here", "IncompleteRead": "the connection broke off",
        "reset by peer": "the connection broke off", "aborted": "the connection broke off",
    }  # fmt: skip
    cause = next((said for sign, said in causes.items() if sign in text), type(error).__name__)
    return HubError("no-network", f"{host} cannot be reached: {cause}", "check the network, or name a mirror")


def open_hub(reference: Reference, kind: str, token: str | None) -> Hub:
    """The repository that a reference names; the library of its hub is imported now."""
    if reference.scheme == "hf":
        from hub_hugging_face import HuggingFace

        return HuggingFace(reference.repo, kind, token)
    from hub_modelscope import ModelScope

    return ModelScope(reference.repo, kind, token)


def read_token(path: Path | None) -> str | None:
    """The token in a file, if one is named; the libraries find the user's own otherwise."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError as error:
        raise HubError("unauthorised", f"--token-file {path}: {error.strerror}") from None


def blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for block in blocks(path):
        digest.update(block)
    return digest.hexdigest()
