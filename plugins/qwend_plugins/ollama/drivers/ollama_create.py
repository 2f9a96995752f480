"""Create a model on an Ollama server: its files by sha256, only those that are missing, then its Modelfile.

The official client creates, shows and pulls; blobs are sent by hand, since the client tells no progress and sends
again what is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import ollama
from compose import MODELFILE, Model, compose, look, read
from modelfile import Modelfile
from ollama_server import Server, numbers
from ollama_start import DriverError, report, say

REFERENCE = "ollama.json"
"""What `ollama:` leaves of a model that a server holds or can pull: its name and the digest of its manifest."""
_CHUNK = 4 * 1024**2
_TRIES = 3


@dataclass(frozen=True)
class Wanted:
    """A model that should be on the server. `base` is the name that FROM gives, with the digest that it was pinned to;
    or there are `files` (name → path and sha256)."""

    request: dict[str, Any]
    files: dict[str, tuple[Path, str]]
    base: str | None = None
    digest: str | None = None
    requires: str | None = None

    @property
    def tag(self) -> str:
        """The same for the same: over the request and the contents."""
        said = [
            self.request,
            {name: digest for name, (_, digest) in self.files.items()},
            self.base,
            self.digest,
        ]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def plain(self) -> bool:
        """Whether it is the server's own model, with nothing said beside."""
        return self.base is not None and not self.request


def want(path: Path, said: dict[str, Any]) -> Wanted:
    """What an input comes to: a GGUF, a checkpoint, a folder with a Modelfile, a Modelfile, or a model by name."""
    if (path / REFERENCE).is_file():
        pinned = json.loads((path / REFERENCE).read_text(encoding="utf-8"))
        bare = Model((), None, {}, None, True)
        own = {**said, "template": said.get("template")}
        made = compose(bare, own, pinned["name"]) if any(own.values()) else Modelfile()
        return Wanted(_request(made), {}, pinned["name"], pinned["digest"])
    modelfile = path / MODELFILE if path.is_dir() else path
    if modelfile.is_file() and modelfile.suffix not in (".gguf", ".safetensors"):
        return _of_modelfile(modelfile, said)
    model = look(path)
    return Wanted(_request(compose(model, said, ".")), _hashed(model.files))


def _of_modelfile(path: Path, said: dict[str, Any]) -> Wanted:
    made = read(path)
    if made.texts("adapter"):
        raise DriverError(
            f"{path.name}: ADAPTER: Ollama takes no adapter for Qwen",
            "merge it (llama-factory/export) and say from: that",
        )
    request = _request(made)
    for name in ("system", "template", "license", "messages"):
        if said.get(name):
            request[name] = said[name]
    request["parameters"] = {**request.get("parameters", {}), **said.get("parameters", {})}
    if not request["parameters"]:
        del request["parameters"]
    source = made.text("from") or ""
    place = path.resolve().parent / Path(source).expanduser()
    if place.exists():
        return Wanted(request, _hashed(look(place).files), requires=made.text("requires"))
    if source.endswith(".gguf") or source.startswith((".", "/", "~")):
        raise DriverError(
            f"{path.name}: FROM {source}: there is no such file", "paths start at the Modelfile's folder"
        )
    return Wanted(request, {}, source, requires=made.text("requires"))


def _request(made: Modelfile) -> dict[str, Any]:
    """The fields of /api/create that a Modelfile comes to."""
    found: dict[str, Any] = {name: made.text(name) for name in ("template", "system")}
    found |= {
        "license": list(made.texts("license")),
        "parameters": made.parameters,
        "messages": made.messages,
    }
    return {name: value for name, value in found.items() if value}


def _hashed(files: tuple[Path, ...]) -> dict[str, tuple[Path, str]]:
    total, done, found = sum(path.stat().st_size for path in files), 0, {}
    for path in files:
        running = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                running.update(chunk)
                done += len(chunk)
                report(progress={"phase": "hash", "done": done, "total": total, "unit": "B"})
        found[path.name] = (path, f"sha256:{running.hexdigest()}")
    return found


def ensure(server: Server, wanted: Wanted, name: str, quantize: str | None) -> None:
    """Make `name` what is wanted, unless it is. Raises DriverError."""
    client = ollama.Client(host=server.url)
    if wanted.requires and numbers(server.version) < numbers(wanted.requires):
        raise DriverError(
            f"the Modelfile requires Ollama {wanted.requires}, and this is {server.version}", "upgrade it"
        )
    try:
        if wanted.base is not None:
            _base(client, wanted)
        if wanted.plain or (name.endswith(wanted.tag) and _has(client, name)):
            return
        for path, digest in wanted.files.values():
            upload(server.url, path, digest)
        files = {file: digest for file, (_, digest) in wanted.files.items()}
        say(f"creates {name}")
        for part in client.create(
            name, from_=wanted.base, files=files or None, quantize=quantize, **wanted.request, stream=True
        ):
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


def _hint(said: str) -> str:
    if "unknown model architecture" in said or "unsupported architecture" in said:
        return "this Ollama does not know it: upgrade it, or serve with llama-cpp/serve"
    return "its own log says more"


def _has(client: ollama.Client, name: str) -> bool:
    return any(one.model in (name, f"{name}:latest") for one in client.list().models)


def _base(client: ollama.Client, wanted: Wanted) -> None:
    """The model behind FROM: pulled if the server lacks it, and what it was pinned to."""
    name = wanted.base or ""
    if not _has(client, name):
        say(f"pulls {name}")
        for part in client.pull(name, stream=True):
            report(
                progress={"phase": "pull", "done": part.completed or 0, "total": part.total or 1, "unit": "B"}
            )
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
