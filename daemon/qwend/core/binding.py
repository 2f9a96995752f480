"""Fills the references of a Launch once the places are known. Pure."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Mapping

import msgspec

from qwend.errors import StepFailed
from qwend.model.launch import (
    BindRef,
    DriverRef,
    ImageRef,
    InputRef,
    Join,
    Launch,
    OutputRef,
    PortRef,
    Ref,
    ScratchRef,
    SecretRef,
    ThreadsRef,
    Word,
)

_NOTHING = "/dev/null"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")


class Places(msgspec.Struct, frozen=True):
    """Where things are, as the step itself will see them (host paths natively, paths of the container else).

    `secrets` maps each secret's name to the path of the file that holds it; `contents` lists each input's
    files by path relative to it, so that a `*` can be matched without a disk.
    """

    inputs: Mapping[str, str]
    contents: Mapping[str, tuple[str, ...]]
    output: str
    scratch: str
    drivers: str
    secrets: Mapping[str, str]
    image: str
    bind: str
    port: int | None
    threads: int


def bind(launch: Launch, places: Places) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command line and environment of a Launch at these places. Raises StepFailed for a dangling reference."""
    without = dict.fromkeys(launch.optional_secrets, _NOTHING)
    places = msgspec.structs.replace(places, secrets={**without, **places.secrets})
    argv = tuple(_word(word, places) for word in launch.argv)
    return argv, {name: _word(word, places) for name, word in launch.env.items()}


def describe(launch: Launch) -> tuple[str, ...]:
    """The command line for people: references by name, in angle brackets."""
    return tuple(_spell(word, _name) for word in launch.argv)


def match(pattern: str, files: tuple[str, ...]) -> str | None:
    """The one file that a pattern means: the only match, or the first part of the only split file."""
    found = sorted(path for path in files if fnmatch.fnmatchcase(path, pattern))
    shards = [path for path in found if _SHARD.search(path)]
    if shards and len(shards) == len(found):
        stems = {_SHARD.sub("-#.", path) for path in shards}
        return found[0] if len(stems) == 1 else None
    return found[0] if len(found) == 1 else None


def _word(word: Word, places: Places) -> str:
    return _spell(word, lambda ref: _fill(ref, places))


def _spell(word: Word, fill: Callable[[Ref], str]) -> str:
    match word:
        case str():
            return word
        case Join(parts=parts):
            return "".join(part if isinstance(part, str) else fill(part) for part in parts)
        case _:
            return fill(word)


def _fill(ref: Ref, places: Places) -> str:
    match ref:
        case InputRef(name=name, path=path):
            return _input(name, path, places)
        case OutputRef(path=path):
            return posixpath.join(places.output, path) if path else places.output
        case ScratchRef(path=path):
            return posixpath.join(places.scratch, path) if path else places.scratch
        case DriverRef(name=name):
            return posixpath.join(places.drivers, name)
        case SecretRef(name=name):
            if name not in places.secrets:
                raise StepFailed(
                    f"the step asks for secret {name}, which it was not given", code="dangling-reference"
                )
            return places.secrets[name]
        case ImageRef(path=path):
            return posixpath.join(places.image, path) if path else places.image
        case BindRef():
            return places.bind
        case ThreadsRef():
            return str(places.threads)
        case PortRef():
            if places.port is None:
                raise StepFailed("the step asks for its port but holds none", code="no-port")
            return str(places.port)


def _input(name: str, path: str, places: Places) -> str:
    folder = places.inputs.get(name)
    if folder is None:
        raise StepFailed(f"the step asks for input {name}, which it was not given", code="dangling-reference")
    if "*" not in path:
        return posixpath.join(folder, path) if path else folder
    found = match(path, places.contents.get(name, ()))
    if found is None:
        there = ", ".join(places.contents.get(name, ())[:8]) or "nothing"
        raise StepFailed(
            f"input {name} should hold one file {path}; it holds {there}", code="ambiguous-input"
        )
    return posixpath.join(folder, found)


def _name(ref: Ref) -> str:
    match ref:
        case InputRef(name=name, path=path):
            return f"<{name}>" + (f"/{path}" if path else "")
        case OutputRef(path=path):
            return "<out>" + (f"/{path}" if path else "")
        case ScratchRef(path=path):
            return "<scratch>" + (f"/{path}" if path else "")
        case DriverRef(name=name) | SecretRef(name=name):
            return f"<{name}>"
        case ImageRef(path=path):
            return path or "<program>"
        case BindRef():
            return "<address>"
        case ThreadsRef():
            return "<threads>"
        case PortRef():
            return "<port>"
