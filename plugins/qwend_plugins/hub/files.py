"""The source `file:`: what lies on this machine, used in place. What it is follows from its headers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from qwend.plugin import (
    Facts,
    Finding,
    HeaderError,
    Host,
    Pin,
    PinnedFile,
    Question,
    Resolution,
    UsageError,
    look_at,
)
from qwend_plugins.hub.kinds import PICKLES, ROWS, TEXTS, dataset_kind, refused_pickle

_HEAD = 1 << 16


class Files:
    """The daemon hashes the content; nothing is copied."""

    scheme: ClassVar[str] = "file"
    summary: ClassVar[str] = "A file or folder of this machine, used in place"
    revision: ClassVar[int] = 1

    def check(self, reference: str) -> Iterable[Finding]:
        body = reference.removeprefix("file:")
        if not body or len(body) > 4096 or not body.isprintable():
            yield Finding("file: takes a path, relative to the recipe or absolute")

    def resolve(self, reference: str, options: dict[str, Any], host: Host) -> Resolution:
        path = _located(reference.removeprefix("file:"), str(options.get("directory", "")))
        try:
            kind, facts, files = _looked_at(path, options)
        except HeaderError as error:
            raise UsageError(
                f"{path}: {error}", code="bad-header", hint="the file is damaged or no model: fetch it again"
            ) from None
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", code="unreadable") from None
        said = str(options.get("type") or kind)
        pin = Pin(ref=reference, identity="", type=said, files=files, facts=facts, local=str(path))
        return Resolution(pin=pin, local=str(path), type=said)

    def fetch(self, pin: Pin, options: dict[str, Any], host: Host) -> Question | None:
        return None


def _located(body: str, directory: str) -> Path:
    """The absolute path. A relative one stays in the recipe's folder, links followed: a recipe from elsewhere
    may not lead to files that it does not name."""
    given = Path(os.path.expanduser(body))
    path = Path(os.path.normpath(Path(directory) / given))
    if not path.exists():
        near = _near(path)
        hint = f"did you mean {near}?" if near else None
        raise UsageError(f"there is no file {path}", code="no-file", hint=hint)
    if given.is_absolute():
        return path
    home = os.path.realpath(directory)
    if not (os.path.realpath(path) + os.sep).startswith(home + os.sep):
        said = f"{body} leads out of the recipe's folder"
        raise UsageError(said, code="outside", hint=f"if that is meant, write file:{os.path.realpath(path)}")
    return path


def _near(path: Path) -> str | None:
    """A name in the same folder that differs in case only, or in its ending."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return None
    same = [name for name in names if name.lower() == path.name.lower()]
    return next(iter(same or [name for name in sorted(names) if Path(name).stem == path.stem]), None)


def _looked_at(path: Path, options: dict[str, Any]) -> tuple[str, Facts, tuple[PinnedFile, ...]]:
    """Artifact type, facts, and the files that may hold pickles. Raises UsageError, HeaderError or OSError."""
    if options.get("kind") == "dataset":
        return _data(path, options)
    if path.is_file() and (path.name == "Modelfile" or path.suffix.lower() == ".modelfile"):
        return "model/ollama", Facts(), ()  # what it says, and the model that it names, is Ollama's business
    found = _pickles(path)
    if found:
        if not options.get("allow_pickle"):
            raise refused_pickle(str(found[0]))
        files = tuple(PinnedFile(file.name, file.stat().st_size) for file in found)
        return "model/safetensors", Facts(bytes=sum(file.size or 0 for file in files)), files
    kind, facts = look_at(path)
    return kind, facts, ()


def _pickles(path: Path) -> list[Path]:
    """Pickled weights that would be read for want of others; trainers leave small pickles beside safetensors."""
    if path.is_file():
        return [path] if path.suffix.lower() in PICKLES else []
    names = sorted(path.iterdir())
    if any(name.suffix in (".safetensors", ".gguf") for name in names):
        return []
    return [name for name in names if name.suffix.lower() in PICKLES]


def _data(path: Path, options: dict[str, Any]) -> tuple[str, Facts, tuple[PinnedFile, ...]]:
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    if not files:
        raise UsageError(f"{path} is empty", code="empty")
    pickled = [file for file in files if file.suffix.lower() in PICKLES]
    if pickled and not options.get("allow_pickle"):
        raise refused_pickle(str(pickled[0]))
    facts = Facts(bytes=sum(file.stat().st_size for file in files))
    readable = [file for file in files if file.suffix.lower() in (*ROWS, *TEXTS)]
    chosen = readable[0] if readable else files[0]
    # who reads the rows asks what is in a folder
    facts = msgspec.structs.replace(facts, extra={"format": chosen.suffix.lower()})
    if options.get("type"):
        return str(options["type"]), facts, ()
    with chosen.open("rb") as file:
        head = file.read(_HEAD).decode("utf-8", "replace")
    kind = dataset_kind(chosen.suffix.lower(), options, head)
    if kind is None:
        raise UsageError(
            f"what data {chosen} holds cannot be told",
            hint="say type: dataset/sft, dataset/text or dataset/prompts",
        )
    return kind, facts, ()
