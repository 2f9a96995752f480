"""What an input comes to on an Ollama server: the fields of its creation, and the files by sha256."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose import MODELFILE, Model, compose, look, read
from modelfile import Modelfile
from ollama_start import DriverError, report

REFERENCE = "ollama.json"
"""What `ollama:` leaves of a model that a server holds or can pull: its name and the digest of its manifest."""
_CHUNK = 4 * 1024**2


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


def want(path: Path, said: dict[str, Any], *, modelfile: bool = False) -> Wanted:
    """What an input comes to: a GGUF or a checkpoint; with `modelfile` one that Ollama's own words describe, by a
    Modelfile or a model's name. A Modelfile that lies beside a checkpoint unasked is another program's guess
    (LLaMA-Factory leaves one with its own template), and the model's template is not."""
    if (path / REFERENCE).is_file():
        pinned = json.loads((path / REFERENCE).read_text(encoding="utf-8"))
        bare = Model((), None, {}, None, True)
        own = {**said, "template": said.get("template")}
        made = compose(bare, own, pinned["name"]) if any(own.values()) else Modelfile()
        return Wanted(_request(made), {}, pinned["name"], pinned["digest"])
    if modelfile:
        return _of_modelfile(path / MODELFILE if path.is_dir() else path, said)
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
