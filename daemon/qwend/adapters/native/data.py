"""What goes into the native supervisor and what comes out of it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qwend.adapters.native.child import FIRST_SECRET
from qwend.adapters.native.identity import ProcessIdentity


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of the OS for one process: open files, and bytes of address space (rarely wise: CUDA and mmap
    reserve far more than they use). None leaves what the daemon has. A core is never dumped."""

    nofile: int | None = None
    address_space: int | None = None

    def resources(self) -> dict[str, int]:
        named = {"nofile": self.nofile, "as": self.address_space}
        return {name: value for name, value in named.items() if value is not None}


class SpawnRequest(msgspec.Struct, frozen=True):
    """A process to start.

    `marker` names this start and no other; it begins with the instance and a colon. `env` is complete:
    nothing is inherited. `log` gets stdout and stderr and is cut to its newest half past `log_max_bytes`.
    `stdin` is what the process reads there, else nothing. Each of `secrets` is handed down as a descriptor
    that no disk, argument or environment shows; `secret_paths` tells where the process opens it.
    """

    marker: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    log_max_bytes: int = 16 * 1024 * 1024
    limits: Limits = Limits()
    umask: int = 0o022
    stdin: bytes | None = None
    secrets: Mapping[str, str] = {}

    def plain(self) -> dict[str, Any]:
        """As JSON for the interface inside supervisord."""
        return {
            "marker": self.marker,
            "argv": list(self.argv),
            "env": dict(self.env),
            "cwd": str(self.cwd),
            "log": str(self.log),
            "log_max_bytes": self.log_max_bytes,
            "limits": self.limits.resources(),
            "umask": self.umask,
            "stdin": None if self.stdin is None else _base64(self.stdin),
            "secrets": [_base64(self.secrets[name].encode()) for name in sorted(self.secrets)],
        }

    def __repr__(self) -> str:
        """Without stdin and secrets: a request may stand in a traceback or a log."""
        return f"SpawnRequest({self.marker!r}, {self.argv!r})"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def secret_paths(names: Iterable[str], first: int = FIRST_SECRET) -> dict[str, str]:
    """Where a process finds its secrets: `/dev/fd/3` and on (or another `first`), in the order of their names.

    On Linux each may be opened again and again, by the process and by what it forks; elsewhere once.
    """
    return {name: f"/dev/fd/{first + n}" for n, name in enumerate(sorted(names))}


class Spawned(msgspec.Struct, frozen=True):
    """The main process of a step. `at` is wall time in seconds; `again` tells that the marker ran already."""

    marker: str
    identity: ProcessIdentity
    at: float
    again: bool = False

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Spawned:
        identity = ProcessIdentity(facts["pid"], facts["started"], facts["boot"])
        return cls(facts["marker"], identity, facts["at"], facts.get("again", False))


class StopResult(msgspec.Struct, frozen=True):
    """How a tree ended. `killed` tells that SIGKILL was needed; `survivors` are processes that even that
    did not end within seconds (stuck in the kernel, on a dead disk or driver)."""

    killed: bool
    survivors: tuple[ProcessIdentity, ...] = ()


class ExitRecord(msgspec.Struct, frozen=True):
    """How a main process ended: by `code` or by `signal`.

    `max_rss` (bytes) and `cpu_s` (user and system) count it and the children it waited for. `ended` is wall
    time, `ended_monotonic` this boot's monotonic clock. `oom` tells that the kernel killed for memory at
    that moment and this died of SIGKILL that was not ours; None where the kernel does not tell. `cursor`
    is the place behind this record in the journal.
    """

    marker: str
    identity: ProcessIdentity
    code: int | None
    signal: int | None
    max_rss: int
    cpu_s: float
    at: float
    ended: float
    ended_monotonic: float
    oom: bool | None
    cursor: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ExitRecord:
        identity = ProcessIdentity(record["pid"], record["started"], record["boot"])
        rest = {name: record[name] for name in cls.__struct_fields__ if name != "identity"}
        return cls(identity=identity, **rest)


class Ensured(msgspec.Struct, frozen=True):
    """The supervisord that serves. `fresh` tells that it was started just now; `outdated` that it runs older
    code and serves on until nothing runs under it. `lost` are the markers whose processes live but do not
    descend from it: their parent died, so nobody will learn their exit codes."""

    pid: int
    fresh: bool
    outdated: bool
    lost: tuple[str, ...] = ()
