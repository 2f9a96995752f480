"""What a step can be told (signals), and what can be asked for it (effects): the words of the lifecycle."""

from __future__ import annotations

from typing import Literal

import msgspec

from qwend.model.service import Exit, Handle


class Go(msgspec.Struct, frozen=True, tag=True):
    """The inputs and the image are there: start."""


class Blocked(msgspec.Struct, frozen=True, tag=True):
    """A lease cannot be had now; `reason` names who holds it."""

    reason: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A lease can never be had (a fixed port is taken, the machine is too small)."""

    reason: str
    code: str = "out-of-resource"


class Lacking(msgspec.Struct, frozen=True, tag=True):
    """What a start needs cannot be had (its image could not be built): it was not even begun."""

    reason: str
    code: str = ""


class Granted(msgspec.Struct, frozen=True, tag=True):
    """The leases are held."""

    port: int | None = None
    gpus: tuple[str, ...] = ()


class Started(msgspec.Struct, frozen=True, tag=True):
    """The runtime has it (or has found it again)."""

    handle: Handle


class NotStarted(msgspec.Struct, frozen=True, tag=True):
    """The runtime could not start it."""

    reason: str
    code: str = ""


class Healthy(msgspec.Struct, frozen=True, tag=True):
    """The probes answered as they should."""


class Unhealthy(msgspec.Struct, frozen=True, tag=True):
    """The probes failed as many times in a row as it takes."""

    reason: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The process is gone. `reason` holds the engine's own last words, `port_taken` what it said of its port,
    `code` what it lacked (`out-of-memory`: of the card or the machine; `disk-full`)."""

    exit: Exit
    reason: str = ""
    port_taken: bool = False
    code: str = ""


class NotEnded(msgspec.Struct, frozen=True, tag=True):
    """The runtime cannot end it, or cannot tell whether it did; it is tried again."""

    reason: str
    code: str = ""


class Committed(msgspec.Struct, frozen=True, tag=True):
    """A job's output is in the store under this digest."""

    artifact: str


class NotCommitted(msgspec.Struct, frozen=True, tag=True):
    """A job's output could not be kept."""

    reason: str
    code: str = ""


class Late(msgspec.Struct, frozen=True, tag=True):
    """A timer rang."""

    timer: Literal["deadline", "backoff", "reset"]


class Stop(msgspec.Struct, frozen=True, tag=True):
    """It is no longer wanted; `kill` does not wait for its manners."""

    reason: str = ""
    kill: bool = False


class Again(msgspec.Struct, frozen=True, tag=True):
    """Restart it at once."""

    reason: str = "restart asked for"


Signal = (
    Go | Blocked | Refused | Lacking | Granted | Started | NotStarted | Healthy | Unhealthy | Ended | NotEnded
    | Committed | NotCommitted | Late | Stop | Again
)  # fmt: skip


class Acquire(msgspec.Struct, frozen=True, tag=True):
    """Ask for the leases; with `move`, for another port than the current one."""

    move: bool = False


class Spawn(msgspec.Struct, frozen=True, tag=True):
    """Start the process of the current generation."""


class Watch(msgspec.Struct, frozen=True, tag=True):
    """Probe it and read its progress until it ends."""


class End(msgspec.Struct, frozen=True, tag=True):
    """End the process tree."""

    grace_s: float


class Commit(msgspec.Struct, frozen=True, tag=True):
    """Take the output into the store."""


class Release(msgspec.Struct, frozen=True, tag=True):
    """Give the leases back; `port` says whether the sticky port too."""

    port: bool = False


class Timer(msgspec.Struct, frozen=True, tag=True):
    """Ring in so many seconds; None unsets it."""

    name: Literal["deadline", "backoff", "reset"]
    seconds: float | None


Effect = Acquire | Spawn | Watch | End | Commit | Release | Timer
