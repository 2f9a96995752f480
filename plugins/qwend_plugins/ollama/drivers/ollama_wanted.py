"""What an input comes to on an Ollama server: the fields of its creation, and the files by sha256."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compose import MODELFILE, Model, compose, look, read
from modelfile import Command, Modelfile
from ollama_start import DriverError, report

REFERENCE = "ollama.json"
"""What `ollama:` leaves of a model that a server holds or can pull: its name and the digest of its manifest."""
_CHUNK = 4 * 1024**2
_TOLD = ("template", "system", "renderer", "parser", "requires")
"""Instructions with one text that the server is told under the same name."""

Files = dict[str, tuple[Path, str]]
"""A file's name on the server → where it lies here, and its sha256."""


@dataclass(frozen=True)
class Wanted:
    """A model that should be on the server. `base` is the name that FROM gives, with the digest that it was pinned to;
    or there are `files` (name → path and sha256), and perhaps a `draft` that guesses ahead, in the same form."""

    request: dict[str, Any]
    files: Files
    base: str | None = None
    digest: str | None = None
    draft: Files = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The same for the same: over the request and the contents."""
        said = [self.request, digests(self.files), self.base, self.digest]
        said += [digests(self.draft)] if self.draft else []
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def plain(self) -> bool:
        """Whether it is the server's own model, with nothing said beside."""
        return self.base is not None and not self.request and not self.draft


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
    if refused := made.all("adapter"):
        raise DriverError(
            f"{path.name}:{refused[0].line}: ADAPTER: Ollama takes no adapter for Qwen",
            "merge it (llama-factory/export) and say from: that",
        )
    request = _request(made)
    for name in ("system", "template", "license", "messages"):
        if said.get(name):
            request[name] = said[name]
    request["parameters"] = {**request.get("parameters", {}), **said.get("parameters", {})}
    if not request["parameters"]:
        del request["parameters"]
    files: Files = {}
    base = None
    for command in made.all("from"):  # several are files of one model: a projector beside it, say
        place = _place(path, command)
        if place is None:
            base = command.text
        else:
            files |= _hashed(look(place).files)
    draft: Files = {}
    for command in made.all("draft"):
        draft |= _hashed(look(_place(path, command) or path.parent / command.text).files)
    return Wanted(request, files, base, draft=draft)


def _place(path: Path, command: Command) -> Path | None:
    """The file or folder that FROM or DRAFT names; None where it is the name of a model. Raises DriverError."""
    source = command.text
    place = path.resolve().parent / Path(source).expanduser()
    if place.exists():
        return place
    if command.name != "from" or source.endswith(".gguf") or source.startswith((".", "/", "~")):
        raise DriverError(
            f"{path.name}:{command.line}: {command.name.upper()} {source}: there is no such file",
            "paths start at the Modelfile's folder",
        )
    return None


def _request(made: Modelfile) -> dict[str, Any]:
    """The fields of /api/create that a Modelfile comes to."""
    found: dict[str, Any] = {name: made.text(name) for name in _TOLD}
    found["requires"] = (found["requires"] or "").removeprefix("v")
    found |= {
        "license": list(made.texts("license")),
        "parameters": made.parameters,
        "messages": made.messages,
        "capabilities": list(made.texts("capability")),
    }
    return {name: value for name, value in found.items() if value}


def digests(files: Files) -> dict[str, str]:
    """The sha256 of each file by its name, as /api/create takes them."""
    return {name: digest for name, (_, digest) in files.items()}


def _hashed(files: tuple[Path, ...]) -> Files:
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
