"""What to run in an image: pure data, with references that are filled when the step starts.

A Launch holds no host path, open handle or closure, so the same Launch runs natively, in a container or
in a cluster. `core.binding` turns it into argv and environment once the places are known.
"""

from __future__ import annotations

from typing import Any

import msgspec


class InputRef(msgspec.Struct, frozen=True, tag="input"):
    """The folder of an input artifact, or one file in it.

    `name` is the input's name (`Given.name`); `path` is relative to the artifact. A `path` with a `*` must
    match one file, or the parts of one split file, of which the first is meant.
    """

    name: str
    path: str = ""


OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""The environment of a step without network: libraries that would wait for a hub are told that there is none."""

PREVIOUS = "@previous"
"""The name of an input that every job has: what this step of this recipe made before, with other prompts or parameters,
or an empty folder. It counts in no fingerprint: a job may only spare itself work by it."""


class OutputRef(msgspec.Struct, frozen=True, tag="output"):
    """The folder that becomes the step's artifact, or a path in it."""

    path: str = ""


class ScratchRef(msgspec.Struct, frozen=True, tag="scratch"):
    """A folder that lives as long as the step's attempts: partial downloads, caches of the engine."""

    path: str = ""


class DriverRef(msgspec.Struct, frozen=True, tag="driver"):
    """A file of `Launch.files`, by its name."""

    name: str


class SecretRef(msgspec.Struct, frozen=True, tag="secret"):
    """The path of a file that holds the secret `name`; its value never stands in argv or environment."""

    name: str


class PortRef(msgspec.Struct, frozen=True, tag="port"):
    """The leased port, as a decimal number."""


class BindRef(msgspec.Struct, frozen=True, tag="bind"):
    """The address to listen on (inside a container: all addresses; the runtime publishes one)."""


class ImageRef(msgspec.Struct, frozen=True, tag="image"):
    """A path inside the realised image (`bin/llama-quantize`); empty: the image itself, where it is a program."""

    path: str


class ThreadsRef(msgspec.Struct, frozen=True, tag="threads"):
    """The number of CPU threads that the step's lease allows, as a decimal number."""


Ref = InputRef | OutputRef | ScratchRef | DriverRef | SecretRef | PortRef | BindRef | ImageRef | ThreadsRef


class Join(msgspec.Struct, frozen=True, tag="join"):
    """Parts that make one word: `Join(("--model=", InputRef("base")))`."""

    parts: tuple[str | Ref, ...]


Word = str | Ref | Join
"""One word of a command line, or the value of an environment variable."""


class LaunchFile(msgspec.Struct, frozen=True):
    """A file of the plugin that the step takes along (a driver, a template). Counts in the fingerprint."""

    name: str
    content: str


class HttpProbe(msgspec.Struct, frozen=True):
    """One HTTP request to the step's own port that must be answered with a 2xx status.

    `body` (JSON) makes it a POST. `field` is a path such as `choices.0.message.content` that the JSON
    answer must hold: this is how a work-path probe asks for one real token.
    """

    path: str
    body: dict[str, Any] | None = None
    field: str | None = None
    timeout_s: float = 10.0


class Probe(msgspec.Struct, frozen=True):
    """How to tell that a service is ready and stays healthy.

    `ready` is asked until it answers, then `work` once: only then the service is ready. Afterwards `ready`
    is asked every `interval_s` and `work` every `work_interval_s` seconds; `failures` misses in a row make
    the service unhealthy. `deadline_s` bounds the start; the planner adds to it by the size of the weights.
    """

    ready: HttpProbe
    work: HttpProbe | None = None
    interval_s: float = 10.0
    work_interval_s: float = 60.0
    failures: int = 3
    deadline_s: float = 120.0


class ProgressPattern(msgspec.Struct, frozen=True):
    """Reads progress from an engine's own log lines.

    `regex` has the groups `done` and `total` (numbers), or `percent`; and optionally `phase` and `rate`.
    """

    regex: str
    phase: str = ""
    unit: str = ""


class LogHint(msgspec.Struct, frozen=True):
    """Recognises an engine's own last words: where `regex` matches the log of a failed step, say `message`.

    Groups of the regex may be used in `message` and `hint` as `{name}`.
    """

    regex: str
    message: str
    hint: str = ""


class Resources(msgspec.Struct, frozen=True):
    """What a step needs. Bytes; None is unknown (never a guess that reads like a fact).

    `memory` is the peak of host RAM (on unified memory: of both), `gpu_memory` the peak on each card,
    `disk` what the output takes, `gpus` how many cards, `heavy` whether it wants the machine to itself.
    """

    memory: int | None = None
    gpu_memory: int | None = None
    disk: int | None = None
    cpus: float | None = None
    gpus: int = 0
    heavy: bool = False
    note: str = ""
    """How the figures come about, for people: `weights 4.4 GiB, KV cache 0.4 GiB for a context of 8192`."""


class Launch(msgspec.Struct, frozen=True):
    """What to run. `network`: a job has none unless it declares it. `resumable`: the output folder of a
    killed attempt is kept for the next one; otherwise each attempt starts with an empty one. Of a service it is the
    scratch folder that is kept from start to start."""

    argv: tuple[Word, ...]
    env: dict[str, Word] = {}
    files: tuple[LaunchFile, ...] = ()
    secrets: tuple[str, ...] = ()
    optional_secrets: tuple[str, ...] = ()
    """Secrets that the step goes without: where one is not given, its `SecretRef` names an empty file."""
    network: bool = False
    resumable: bool = False
    resources: Resources = Resources()
    probe: Probe | None = None
    progress: tuple[ProgressPattern, ...] = ()
    hints: tuple[LogHint, ...] = ()
    shm: int | None = None
    port_taken_exit: int | None = None
    """The exit code by which the engine says that its port was taken; the log is searched for EADDRINUSE too."""
    api: str | None = None
    """What a service speaks: `openai` for an OpenAI-compatible API under `/v1`."""


def reads_previous(launch: Launch) -> bool:
    """Whether the Launch reads what its step made before."""
    words = (*launch.argv, *launch.env.values())
    parts = (part for word in words for part in (word.parts if isinstance(word, Join) else (word,)))
    return any(isinstance(part, InputRef) and part.name == PREVIOUS for part in parts)
