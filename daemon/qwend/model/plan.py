"""What a recipe comes to on this machine: compiled steps, and the ordered actions that are left to do."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from qwend.model.artifact import Facts, Pin
from qwend.model.image import Image
from qwend.model.launch import Launch, Resources

StepKind = Literal["source", "job", "service", "interactive"]
Verb = Literal["keep", "reference", "build", "run", "start", "replace", "stop"]


class Restart(msgspec.Struct, frozen=True):
    """When a service is started again, at most `max` times in a row (None: no limit), waiting `backoff_s`
    and twice as long each further time up to `cap_s`; `reset_s` of health begin the count anew."""

    policy: Literal["no", "on-failure", "always"] = "on-failure"
    max: int | None = 5
    backoff_s: float = 1.0
    cap_s: float = 60.0
    reset_s: float = 300.0


class Policy(msgspec.Struct, frozen=True):
    """How a step is looked after. Nothing here counts in a fingerprint; changes apply to what runs."""

    restart: Restart = Restart()
    stop_grace_s: float = 10.0
    timeout_s: float | None = None
    retries: int = 0
    replace: Literal["rolling", "stop-first"] = "stop-first"
    keep: bool = True
    out: str | None = None
    """Host path where the artifact also appears."""
    host: str = "127.0.0.1"
    port: int | None = None
    gpu_share: float = 1.0
    gpus: tuple[str, ...] = ()
    """Named cards (index in PCI order, or UUID); empty: any."""
    expect: tuple[str, ...] = ()
    deadline_s: float | None = None
    """Bound on the start of a service: the recipe's, else the engine's plus what reading the weights takes."""
    probe_interval_s: float | None = None
    memory: int | None = None
    """The limit that the recipe sets, in bytes; `Resources.memory` is what the step is expected to need."""


class Edge(msgspec.Struct, frozen=True):
    """An input: under `name` the step sees the artifact of `step` (a step or a source)."""

    name: str
    step: str
    types: tuple[str, ...] = ()


class CompiledStep(msgspec.Struct, frozen=True):
    """One step (or source, or value of a matrix) with everything that its engine had to say.

    `ingredients` is what the fingerprint is made of, label by label (`with.type`, `from.f16`, `image`), so that a
    plan can say what changed. `chosen` says why this runtime and flavour were taken.
    """

    name: str
    engine: str
    kind: StepKind
    fingerprint: str
    ingredients: dict[str, str]
    where: str = ""
    image: Image | None = None
    launch: Launch | None = None
    pin: Pin | None = None
    inputs: tuple[Edge, ...] = ()
    needs: tuple[str, ...] = ()
    produces: str | None = None
    facts: Facts = Facts()
    runtime: str = "native"
    flavour: str = "cpu"
    chosen: str = ""
    policy: Policy = Policy()
    resources: Resources = Resources()
    secrets: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    select: bool = False
    """The step's artifact is one of its inputs, named in its report (`evaluate/select`)."""
    command: tuple[str, ...] = ()
    """The command line for people: references shown by name."""
    plugin: str = ""
    """Distribution and version of the plugin, for the provenance."""
    options: dict[str, Any] = {}
    """The parameters as the user gave them, defaults included, for the provenance."""


class Compiled(msgspec.Struct, frozen=True):
    """A recipe on this host. Steps are in topological order, ties by their order in the file.

    `left_out` names steps of the recipe that were not asked for or whose condition or profile does not hold:
    what still runs of them is left alone.
    """

    recipe: str
    digest: str
    steps: tuple[CompiledStep, ...]
    directory: str
    source: str = ""
    warnings: tuple[str, ...] = ()
    smoke: bool = False
    left_out: tuple[str, ...] = ()


class Action(msgspec.Struct, frozen=True):
    """One decision: `verb` is done to `step` because `why` ("with.type Q4_K_M → Q5_K_M")."""

    verb: Verb
    step: str
    why: str = ""
    detail: str = ""


class Plan(msgspec.Struct, frozen=True):
    """Ordered decisions and what the user should know before they are taken.

    `blockers` are errors (too little memory or disk, a missing driver); with any of them nothing starts.
    `need` sums up bytes to download and to write.
    """

    recipe: str
    actions: tuple[Action, ...]
    warnings: tuple[str, ...] = ()
    blockers: tuple[str, ...] = ()
    download: int = 0
    disk: int = 0

    @property
    def changes(self) -> bool:
        return any(action.verb != "keep" for action in self.actions)
