"""Services, jobs and runs as they are now."""

from __future__ import annotations

from typing import Literal

import msgspec

from qwend.model.memory import human

HEIR = "@next"
"""Behind a service's name: the one that is to replace it, until it is ready. No step of a recipe ends so."""


class Identity(msgspec.Struct, frozen=True):
    """Who a process or container is; carried by its environment or labels, so that it is found again."""

    instance: str
    run: str
    recipe: str
    step: str
    fingerprint: str
    generation: int

    @property
    def key(self) -> str:
        """`recipe/step`, the name of the mailbox."""
        return f"{self.recipe}/{self.step}"

    @property
    def marker(self) -> str:
        """One word that names this start of this step and no other."""
        return f"{self.instance}:{self.run}:{self.key}:{self.generation}"


class Handle(msgspec.Struct, frozen=True):
    """What a runtime needs to find the thing again: pid with start time, or container id."""

    runtime: str
    marker: str
    id: str
    pid: int | None = None
    started: str | None = None
    """The start time as the kernel tells it (ticks since boot, with the boot id), or the container's."""


class Exit(msgspec.Struct, frozen=True):
    """How a process ended. `code` is None if a signal ended it or the code was lost (its parent died);
    `oom` that memory ended it; `peak` the largest resident set in bytes; `killed` that we ended it at the deadline."""

    marker: str
    code: int | None = None
    signal: int | None = None
    oom: bool = False
    killed: bool = False
    lost: bool = False
    peak: int | None = None
    cpu_s: float | None = None
    at: float = 0.0

    @property
    def ok(self) -> bool:
        return self.code == 0 and not self.killed

    def describe(self) -> str:
        if self.oom:
            return "killed for memory" + (f" at a peak of {human(self.peak)}" if self.peak else "")
        if self.lost:
            return "ended while nobody watched; its exit code is lost"
        return f"ended by signal {self.signal}" if self.signal else f"exit code {self.code}"


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """The row of one step of one recipe, service or job: what `ps` shows and what survives a crash.

    `want` is what was last asked for: a step that is not wanted never comes back to life. `after` is the
    state that follows `stopping` (or, for a job, an ending that we asked for). `generation` counts starts,
    `attempts` failed ones in a row, `moves` leases of a port that a stranger took first. `reason` is one
    line for people; `proven` says that this fingerprint was ready once.
    """

    key: str
    recipe: str
    step: str
    kind: Literal["job", "service"]
    engine: str
    fingerprint: str
    run: str
    state: str = "pending"
    want: Literal["up", "down"] = "up"
    after: str = ""
    reason: str = ""
    code: str = ""
    """The error code of a failed step (`out-of-resource`); empty where the step itself failed."""
    generation: int = 0
    attempts: int = 0
    moves: int = 0
    proven: bool = False
    runtime: str = ""
    image: str = ""
    handle: Handle | None = None
    port: int | None = None
    host: str = "127.0.0.1"
    gpus: tuple[str, ...] = ()
    exit: Exit | None = None
    artifact: str | None = None
    started: float | None = None
    ready: float | None = None
    ended: float | None = None
    log: str | None = None
    log_from: int = 0
    """Where in its log the current start begins, in bytes."""
    born: str = ""
    """The step name that the process carries, where it took over from its predecessor while that still ran."""

    @property
    def marker(self) -> str:
        """The marker of the current start, without its instance; it is known before the process exists."""
        return f"{self.run}:{self.recipe}/{self.born or self.step}:{self.generation}"

    @property
    def alive(self) -> bool:
        """Whether a process of this step exists or is about to."""
        return self.state in {"starting", "ready", "unhealthy", "stopping", "running"}

    @property
    def settled(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in {"ready", "stopped", "failed", "succeeded", "cancelled", "cached"}


RunState = Literal["planned", "running", "done", "failed", "refused", "cancelled", "superseded"]


class Run(msgspec.Struct, frozen=True):
    """One `up` of one recipe. `owners` are attached clients that would end it; a detached `up` is `kept`."""

    id: str
    recipe: str
    state: RunState
    created: float
    kept: bool = False
    ended: float | None = None
    error: dict[str, object] | None = None
    only: tuple[str, ...] = ()
    force: tuple[str, ...] = ()
