"""What the daemon and its planner worker say to one another: length-prefixed JSON frames over two pipes.

A frame is four bytes (length, big endian) and that much JSON. The daemon asks with an `Ask`, the worker answers
each with one `Answer` of the same id; its first frame is a `Hello`. Light: the daemon imports this module.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal

import msgspec

from qwend.core.recipe_text import RecipeFile
from qwend.model.artifact import Pin
from qwend.model.event import Event
from qwend.model.host import Host
from qwend.model.launch import LaunchFile
from qwend.model.plan import Compiled
from qwend.model.source import Resolution

MAX_FRAME: Final = 1 << 30
HEADER: Final = 4


class PluginProblem(msgspec.Struct, frozen=True):
    """A plugin that was left out, and why."""

    plugin: str
    reason: str


class Hello(msgspec.Struct, frozen=True):
    """The worker is ready. `watch` are the paths whose change means that other code would be imported now;
    `observers` says whether any plugin wants to be told of events."""

    version: str
    watch: tuple[str, ...] = ()
    observers: bool = False
    problems: tuple[PluginProblem, ...] = ()


class Ask(msgspec.Struct, frozen=True):
    """One call. `payload` is the JSON of what the verb takes."""

    id: int
    verb: str
    payload: msgspec.Raw = msgspec.Raw(b"null")


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`result` is the JSON of what the verb gives; `error` a `QwendError.to_dict()`."""

    id: int
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, Any] | None = None


class RecipeRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """A recipe as the client sent it, and what of it is wanted. `directory` is absolute."""

    files: tuple[RecipeFile, ...]
    directory: str
    set: tuple[str, ...] = ()
    env: dict[str, str] = {}
    profiles: tuple[str, ...] = ()
    smoke: bool = False
    runtime: str | None = None
    device: str | None = None
    steps: tuple[str, ...] = ()


class LoadRequest(msgspec.Struct, frozen=True):
    """`verb load`: read the recipe, say which references must be pinned. `runtimes` are those that answer here,
    `runtime` is the user's setting for steps that say `auto`."""

    recipe: RecipeRequest
    host: Host
    runtimes: tuple[str, ...] = ("native",)
    runtime: str | None = None


class Candidate(msgspec.Struct, frozen=True):
    """One reference of a source's list: how to pin it, or why that cannot be (`error`)."""

    ref: str
    resolution: Resolution | None = None
    error: dict[str, Any] | None = None


class Wanted(msgspec.Struct, frozen=True):
    """A source that the asked-for steps need: its candidates are tried in order. `where` is its place in the
    recipe, `options` what `Source.resolve` and `Source.fetch` were or will be told."""

    name: str
    kind: Literal["model", "dataset"]
    candidates: tuple[Candidate, ...]
    options: dict[str, Any] = {}
    where: str = ""


class LoadReply(msgspec.Struct, frozen=True):
    """Answer to `load`. `stamps` are the files that the resolutions were read from."""

    recipe: str
    sources: tuple[Wanted, ...] = ()
    warnings: tuple[str, ...] = ()
    stamps: tuple[Stamp, ...] = ()


class CompileRequest(msgspec.Struct, frozen=True):
    """`verb compile`: a loaded recipe with the pins of its sources. `have` is the digest of a `Compiled` that
    the daemon holds: if the answer would be the same it is not sent again."""

    load: LoadRequest
    pins: dict[str, Pin]
    have: str | None = None


class CompileReply(msgspec.Struct, frozen=True):
    """`compiled` is None where the daemon has it already; `contents` are the files of Launches, each once, and
    `stamps` the files that images were read from."""

    digest: str
    compiled: Compiled | None = None
    contents: dict[str, str] = {}
    stamps: tuple[Stamp, ...] = ()


class EventBatch(msgspec.Struct, frozen=True):
    """`verb event`."""

    events: tuple[Event, ...]


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """A file or folder as it was: modification time in nanoseconds and size; -1 where there is none."""

    path: str
    modified: int
    size: int


def digest(*parts: Any) -> str:
    """sha256 (hex) over the JSON of the parts."""
    running = hashlib.sha256()
    for part in parts:
        running.update(msgspec.json.encode(part, order="sorted"))
        running.update(b"\0")
    return running.hexdigest()


def lasting(host: Host) -> Host:
    """The host without its figures of the moment: what plugins see, and what a compilation depends on."""
    return msgspec.structs.replace(
        host,
        memory_available=None,
        disk_free=None,
        gpus=tuple(msgspec.structs.replace(gpu, memory_free=None) for gpu in host.gpus),
    )


def pack(compiled: Compiled) -> tuple[Compiled, dict[str, str]]:
    """The same with each file's content taken out and kept once: a thousand steps share one driver."""
    contents: dict[str, str] = {}
    keys: dict[str, str] = {}

    def out(file: LaunchFile) -> LaunchFile:
        key = keys.get(file.content)
        if key is None:
            key = keys[file.content] = hashlib.sha256(file.content.encode()).hexdigest()[:16]
            contents[key] = file.content
        return LaunchFile(file.name, key)

    return _with_files(compiled, out), contents


def unpack(compiled: Compiled, contents: dict[str, str]) -> Compiled:
    """The inverse of `pack`."""
    return _with_files(compiled, lambda file: LaunchFile(file.name, contents[file.content]))


def _with_files(compiled: Compiled, change: Any) -> Compiled:
    replace = msgspec.structs.replace
    steps = tuple(
        replace(step, launch=replace(step.launch, files=tuple(change(file) for file in step.launch.files)))
        if step.launch is not None and step.launch.files
        else step
        for step in compiled.steps
    )
    return replace(compiled, steps=steps)


def frame(message: Any) -> bytes:
    """A message as it goes over the pipe."""
    body = msgspec.json.encode(message)
    return len(body).to_bytes(HEADER, "big") + body


def length(header: bytes) -> int:
    """How many bytes follow; ValueError if that is more than any message has."""
    size = int.from_bytes(header, "big")
    if size > MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes")
    return size
