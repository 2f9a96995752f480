"""What a plugin's engines and sources must be able to say. They are pure: they describe, the daemon acts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from qwend.model.artifact import Facts, Pin
from qwend.model.host import Host
from qwend.model.image import Image
from qwend.model.launch import Launch, LaunchFile
from qwend.model.source import Question, Resolution


class Params(BaseModel):
    """Base of an engine's parameters: unknown keys are errors, values are frozen, `1` is no `"1"`.

    Give every field a description (it is what editors show), a range where there is one, and the tool's
    own name where it is a good one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


def reference(*types: str, default: Any = None, description: str = "") -> Any:
    """A parameter that names another step, model or dataset whose artifact has one of `types`.

    The value is the name (str) or names (tuple of str); the step sees the artifact as `StepView.given[field]`.
    """
    return Field(default, description=description, json_schema_extra={"x-qwend-reference": list(types)})


def flag(tool: str, default: Any = ..., *, description: str, fingerprint: bool = True, **limits: Any) -> Any:
    """A parameter that is the tool's own flag (`--ctx-size`); `fingerprint=False` where it cannot change the
    output (threads). `limits` are pydantic's (`ge`, `le`, `pattern`)."""
    extra: dict[str, Any] = {"x-qwend-flag": tool, "x-qwend-fingerprint": fingerprint}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def driver(path: Path, name: str | None = None) -> LaunchFile:
    """A file of the plugin that a Launch carries into the image; cached by nothing, read where it stands."""
    return LaunchFile(name=name or path.name, content=path.read_text(encoding="utf-8"))


class Given(msgspec.Struct, frozen=True):
    """One input as it is known before anything runs: its producer's name, its type, what its headers say or
    its engine promises. `engine` made it (None for a source); `lineage` are the producer's own inputs."""

    name: str
    type: str
    facts: Facts = Facts()
    engine: str | None = None
    params: dict[str, Any] = {}
    lineage: tuple[Given, ...] = ()
    pin: Pin | None = None


class StepView(msgspec.Struct, frozen=True):
    """A step as its engine sees it.

    `inputs` are the artifacts of `from:` in the recipe's order, `given` those of reference parameters by
    field. In a Launch, `InputRef(name=given.name)` names either. `params` is an instance of the engine's
    `params` model. `flavour` was settled before (`cpu`, `cuda`, `cuda12`, `apple`).
    """

    name: str
    recipe: str
    params: Any
    inputs: tuple[Given, ...] = ()
    given: dict[str, tuple[Given, ...]] = {}
    flavour: str = "cpu"
    runtime: str = "native"
    gpus: int = 0
    gpu_share: float = 1.0
    host: str = "127.0.0.1"
    memory: int | None = None
    cpus: float | None = None
    extra_args: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    network: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    idle_s: float | None = None


class Finding(msgspec.Struct, frozen=True):
    """What a check found. `key` is the path below the step (`with.type`), so that it gets a line and column."""

    message: str
    key: str = ""
    hint: str | None = None
    level: Literal["error", "warning"] = "error"


class Product(msgspec.Struct, frozen=True):
    """What a job promises: the artifact's type, and what follows of its facts from the inputs."""

    type: str
    facts: Facts = Facts()


class Engine(Protocol):
    """A program that a step runs.

    `revision` is raised when outputs change for unchanged parameters: it is in the fingerprint (the plugin's
    version is not, so an upgrade repeats nothing). `accepts` are the types of `from:`, empty if it takes none;
    `many` says that it takes a list. Methods are called only for steps whose edges and parameters are valid.
    `host` holds no figures of the moment (free memory, free disk): a plan may not depend on them.

    An engine may also have `select = True`: its artifact is one of its inputs, which its report names; and a method
    `metrics(step) -> Iterable[str] | None`: the names of the figures that its report will have (`perplexity`, and
    `f16.perplexity` for one `of` an input; None: it cannot tell). A gate on any other is then an error of the plan.
    And `first: Mapping[str, tuple[str, ...]]`: types that it does not take, and the engines of which one (the best for
    the machine) makes a type that it does: `{"adapter/lora": ("llama-factory/export", "mlx/fuse")}`. Such an input is
    put through that engine, without parameters, by a step of its own that the plan shows.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["job", "service", "interactive"]]
    revision: ClassVar[int]
    summary: ClassVar[str]
    params: ClassVar[type[Params]]
    accepts: ClassVar[tuple[str, ...]]
    many: ClassVar[bool]
    flavours: ClassVar[tuple[str, ...]]

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        """What is wrong or doubtful with the step on this host, beyond types and ranges."""
        ...

    def product(self, step: StepView) -> Product | None:
        """What the artifact will be; None for a service or an interactive engine."""
        ...

    def image(self, step: StepView, host: Host) -> Image:
        """What the step runs in."""
        ...

    def launch(self, step: StepView, host: Host) -> Launch:
        """What to run in it."""
        ...


class Source(Protocol):
    """A kind of reference."""

    scheme: ClassVar[str]
    summary: ClassVar[str]
    revision: ClassVar[int]

    def check(self, reference: str) -> Iterable[Finding]:
        """What is wrong with how the reference is written (`scheme:` included)."""
        ...

    def resolve(self, reference: str, options: dict[str, Any], host: Host) -> Resolution:
        """How to pin it. `options` are those of the recipe (`column`, `sample`, `seed`, `type`, `allow_pickle`) and
        what the compiler knows: `kind` (`model` or `dataset`), `wants` (the artifact types that every consumer
        accepts, best first), `directory` (where relative paths start), `fallback` (mirrors before it failed)."""
        ...

    def fetch(self, pin: Pin, options: dict[str, Any], host: Host) -> Question | None:
        """What brings the pinned files into the step's output folder; None if they are used in place."""
        ...
