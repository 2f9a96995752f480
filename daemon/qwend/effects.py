"""Protocols of every side effect. The reconciler knows these and nothing of Docker, SQLite or sockets.

All methods are coroutines unless they only look at memory; all failures are QwendErrors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from qwend.model.artifact import Artifact, Facts
from qwend.model.event import Event
from qwend.model.host import Host
from qwend.model.image import Image
from qwend.model.launch import HttpProbe, Launch
from qwend.model.lease import Lease
from qwend.model.service import Exit, Handle, Identity


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far something is: not an event, not a log line. `rate` is in `unit` per second."""

    subject: str
    phase: str = ""
    done: float | None = None
    total: float | None = None
    unit: str = ""
    rate: float | None = None
    message: str = ""


OnProgress = Callable[[Progress], None]


class LastWords(msgspec.Struct, frozen=True):
    """Why a step failed, in one line; whether its port was taken; and what it lacked, as the code of an error
    (`out-of-memory`, `disk-full`)."""

    text: str = ""
    port_taken: bool = False
    code: str = ""


class Realised(msgspec.Struct, frozen=True):
    """An image that is there: `location` is a folder (venv), an image id (oci) or a program's path."""

    key: str
    kind: str
    location: str
    digest: str
    seconds: float = 0.0
    size: int | None = None


class Order(msgspec.Struct, frozen=True):
    """Everything that a runtime needs to start a step; host paths appear here and not before.

    `inputs` maps names to host folders (read-only), or to single files by relative path for artifacts that
    are used in place; `output` and `scratch` are host folders; `secrets` maps names to values.
    """

    identity: Identity
    launch: Launch
    image: Realised
    inputs: Mapping[str, str]
    log: str
    report: str
    work: str
    output: str | None = None
    scratch: str | None = None
    port: int | None = None
    host: str = "127.0.0.1"
    secrets: Mapping[str, str] = {}
    gpus: tuple[str, ...] = ()
    memory: int | None = None
    threads: int = 1
    env: Mapping[str, str] = {}
    stop_grace_s: float = 10.0
    service: bool = False


class Screen(msgspec.Struct, frozen=True):
    """The client's side of an interactive step: whether its input is a terminal, of which kind (`TERM`), and the
    client's process."""

    tty: bool = False
    term: str = "dumb"
    client: int = 0


class Terminal(msgspec.Struct, frozen=True):
    """What a client runs on its own terminal, in the folder where its user is. `env` is complete, or comes on top of
    the client's own (`inherit`). `secrets`: numbers of descriptors that the process is to have, and what it reads
    there."""

    argv: tuple[str, ...]
    env: dict[str, str]
    inherit: bool = False
    secrets: tuple[tuple[int, str], ...] = ()

    def __repr__(self) -> str:
        """Without secrets: it may stand in a traceback."""
        return f"Terminal({self.argv!r})"


class Runtime(Protocol):
    """Where a Launch runs. `start` is idempotent by marker: a second call for a marker that lives adopts it."""

    name: str

    async def start(self, order: Order) -> Handle:
        """Starts the step; raises StepFailed if it cannot be started at all."""
        ...

    async def stop(self, handle: Handle, grace_s: float) -> bool:
        """Ends the whole tree, politely first; True if it had to be killed. Returns when it is verified dead."""
        ...

    async def living(self) -> dict[str, Handle]:
        """Everything of this instance that lives, by marker."""
        ...

    async def backlog(self) -> list[Exit]:
        """Exits that were not acknowledged yet: what ended while no daemon watched."""
        ...

    def exits(self) -> AsyncIterator[Exit]:
        """Exits as they come, the backlog first; each at least once. Ends when the runtime is closed."""
        ...

    async def acknowledge(self, ended: Exit) -> None:
        """The exit is recorded; it need not be told again."""
        ...

    async def listens(self, handle: Handle, port: int) -> bool | None:
        """Whether it is this step that listens on the port; None where that cannot be told."""
        ...

    async def attach(self, order: Order, screen: Screen) -> Terminal:
        """Readies an interactive step for a client, which runs it itself: it is never supervised, has no log, and is
        in none of `living` and `exits`. Raises StepFailed if it cannot be started at all."""
        ...

    async def detach(self, order: Order) -> None:
        """The client is gone: ends what may be left of an attached step, and gives its folders back."""
        ...

    async def close(self) -> None:
        """Lets go of connections; what runs goes on."""
        ...


class Builder(Protocol):
    """Realises images of one kind."""

    async def realise(self, image: Image, progress: OnProgress) -> Realised:
        """The realised image, built if it is not there; concurrent asks share one build."""
        ...

    async def find(self, image: Image) -> Realised | None:
        """The realised image if it is there."""
        ...


class Work(msgspec.Struct, frozen=True):
    """The folders of one job: `output` becomes the artifact."""

    root: str
    output: str
    scratch: str
    report: str


class Store(Protocol):
    """Content-addressed artifacts on disk."""

    async def find(self, fingerprint: str) -> Artifact | None:
        """The artifact of a fingerprint, if it is there and whole by size and mtime."""
        ...

    async def latest(self, recipe: str, step: str, engine: str) -> Artifact | None:
        """What this step of this recipe made last with this engine, under whatever fingerprint."""
        ...

    def work(self, fingerprint: str) -> Work:
        """Where a job's folders are, or will be."""
        ...

    async def prepare(self, fingerprint: str, keep: bool) -> Work:
        """Folders for a job; `keep` leaves what an earlier attempt wrote."""
        ...

    async def commit(
        self,
        work: Work,
        *,
        fingerprint: str,
        type: str,
        facts: Facts,
        metrics: Mapping[str, float],
        provenance: Mapping[str, Any],
    ) -> Artifact:
        """Hashes, fsyncs and renames the output into the store: after a crash it is there whole or not at all."""
        ...

    async def discard(self, fingerprint: str) -> None:
        """Removes a job's folders."""
        ...

    async def reference(
        self,
        path: str,
        *,
        fingerprint: str,
        type: str,
        facts: Facts,
        provenance: Mapping[str, Any],
        only: Collection[str] = (),
    ) -> Artifact:
        """An artifact of files that stay where the user has them; with `only`, of these paths in a folder."""
        ...

    async def alias(
        self, fingerprint: str, of: Artifact, metrics: Mapping[str, float], provenance: Mapping[str, Any]
    ) -> Artifact:
        """The same content under another fingerprint, with further figures (`evaluate/select`)."""
        ...

    async def digest(self, path: str) -> tuple[str, int]:
        """sha256 (hex) over a file's or folder's content, and its size; unchanged files are not read again."""
        ...

    async def publish(self, artifact: Artifact, out: str) -> None:
        """Makes the artifact appear at a host path, linked, whole or not at all."""
        ...

    async def publishable(self, out: str) -> None:
        """Raises UsageError where something is in the way at a host path that must not be replaced."""
        ...


class State(Protocol):
    """Durable events and their projections."""

    async def record(self, *events: Event) -> tuple[Event, ...]:
        """Returns when the events are durable, with their `seq` and `at`; what is asked at the same moment is
        committed together."""
        ...

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """A projection, by subject."""
        ...

    async def lease_port(self, holder: str, wanted: int | None, avoid: Iterable[int] = ()) -> Lease:
        """Takes a free port in one transaction (a sticky one is given back to its holder).
        Raises OutOfResource, naming who holds `wanted` or that the range is used up."""
        ...

    async def release(self, holder: str, sticky: bool = False) -> None:
        """Gives back the holder's leases; sticky ones only if asked."""
        ...

    async def exchange(self, one: str, other: str) -> None:
        """Each of two holders has the port of the other."""
        ...


class Prober(Protocol):
    """Asks a service whether it is well."""

    async def ask(self, host: str, port: int, probe: HttpProbe, headers: Mapping[str, str]) -> str | None:
        """None if it answered as the probe wants, else what was wrong in one line."""
        ...


class Clock(Protocol):
    """Time. `monotonic` drives timers; `wall` is for people."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class Machine(Protocol):
    """The hardware."""

    async def observe(self) -> Host:
        """A fresh snapshot."""
        ...
