"""Create a model on an Ollama server: its files by sha256, only those that are missing, then what is said of them.

The official client creates, shows and pulls; blobs are sent by hand, since the client tells no progress and sends
again what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
from ollama_server import Server, numbers
from ollama_start import DriverError, report, say
from ollama_wanted import Wanted, digests

_CHUNK = 4 * 1024**2
_TRIES = 3


def ensure(server: Server, wanted: Wanted, name: str, quantize: str | None) -> None:
    """Make `name` what is wanted, unless it is. Raises DriverError."""
    client = ollama.Client(host=server.url)
    requires, have = str(wanted.request.get("requires", "")), numbers(server.version)
    if have != (0, 0, 0) and have < numbers(requires):  # a build from source says 0.0.0
        raise DriverError(
            f"the Modelfile requires Ollama {requires}, and this is {server.version}", "upgrade it"
        )
    try:
        if wanted.base is not None:
            _base(client, wanted)
        if wanted.plain or (name.endswith(wanted.tag) and _has(client, name)):
            return
        for path, digest in (*wanted.files.values(), *wanted.draft.values()):
            upload(server.url, path, digest)
        say(f"creates {name}")
        for part in _created(client, name, wanted, quantize):
            report(
                progress={
                    "phase": part.status or "create",
                    "done": part.completed or 0,
                    "total": part.total or 1,
                }
            )
    except ollama.ResponseError as error:
        raise DriverError(f"Ollama refuses to create {name}: {error.error}", _hint(error.error)) from None
    except (httpx.HTTPError, ConnectionError) as error:
        raise DriverError(f"Ollama at {server.url} went away: {error}") from None
    except ValueError:
        raise DriverError(
            f"what answers at {server.url} does not speak as Ollama does", "is it one?"
        ) from None


def _created(
    client: ollama.Client, name: str, wanted: Wanted, quantize: str | None
) -> Iterator[ollama.ProgressResponse]:
    """The official client's creation, with fields that it has no words for (a renderer, a draft …) beside its own."""
    body: dict[str, Any] = {
        "from": wanted.base,
        "files": digests(wanted.files),
        "draft_files": digests(wanted.draft),
    }
    body |= {"model": name, "quantize": quantize, "stream": True, **wanted.request}
    said = {key: value for key, value in body.items() if value}
    made: Iterator[ollama.ProgressResponse] = client._request(
        ollama.ProgressResponse, "POST", "/api/create", json=said, stream=True
    )
    return made


def _hint(said: str) -> str:
    if "unknown model architecture" in said or "unsupported architecture" in said:
        return "this Ollama does not know it: upgrade it, or serve with llama-cpp/serve"
    if "quantiz" in said:
        return "this Ollama does not quantise it: leave quantize out, and insert llama-cpp/quantize"
    if "safetensors" in said or "MLX" in said:
        return (
            "this Ollama imports no checkpoint here: insert llama-cpp/convert, since a GGUF loads everywhere"
        )
    return "its own log says more"


def _has(client: ollama.Client, name: str) -> bool:
    return any(one.model in (name, f"{name}:latest") for one in client.list().models)


def _base(client: ollama.Client, wanted: Wanted) -> None:
    """The model behind FROM: pulled if the server lacks it, and what it was pinned to."""
    name = wanted.base or ""
    if not _has(client, name):
        say(f"pulls {name}")
        try:
            for part in client.pull(name, stream=True):
                done, total = part.completed or 0, part.total or 1
                report(progress={"phase": "pull", "done": done, "total": total, "unit": "B"})
        except ollama.ResponseError as error:
            hint = "ollama.com/library lists what there is; a path in FROM starts with ./"
            raise DriverError(f"Ollama cannot pull {name}: {error.error}", hint) from None
    have = next((one.digest for one in client.list().models if one.model in (name, f"{name}:latest")), None)
    if wanted.digest and have and have.removeprefix("sha256:") != wanted.digest.removeprefix("sha256:"):
        raise DriverError(
            f"{name} on the server is {have[:19]}, and {wanted.digest[:19]} was pinned",
            "qwend lock --upgrade takes it",
        )


def upload(url: str, path: Path, digest: str) -> None:
    """Send a file unless the server has it; what is cut off is sent again. Raises DriverError."""
    size = path.stat().st_size

    def content() -> Iterator[bytes]:
        done = 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
                done += len(chunk)
                report(progress={"phase": f"upload {path.name}", "done": done, "total": size, "unit": "B"})

    place, last = f"{url}/api/blobs/{digest}", ""
    for _ in range(_TRIES):
        try:
            if httpx.head(place, timeout=30).status_code == 200:
                return
            answer = httpx.post(place, content=content(), headers={"Content-Length": str(size)}, timeout=None)
        except httpx.HTTPError as error:
            last = str(error) or type(error).__name__
            say(f"the upload of {path.name} was cut off ({last}): again")
            continue
        if answer.status_code in (200, 201):
            return
        last = answer.text[:200]
    raise DriverError(
        f"{path.name} could not be sent to Ollama: {last}", "is its disk full? its own log says more"
    )
