"""What the lifecycles of services and jobs share. Pure."""

from __future__ import annotations

import msgspec

from qwend.core.signals import Effect, Ended, Timer
from qwend.model.memory import human
from qwend.model.plan import Policy
from qwend.model.service import Step

Decision = tuple[Step, tuple[Effect, ...]]

OFF = Timer("deadline", None)


def to(step: Step, state: str, reason: str = "", **fields: object) -> Step:
    """The step in another state; what was said of the old one is forgotten."""
    return msgspec.structs.replace(step, **{"state": state, "reason": reason, "code": "", **fields})


def why(ended: Ended, policy: Policy) -> str:
    """Why a process is gone, in one line: the engine's own last words, and for memory the figures."""
    reason = ended.reason or ended.exit.describe()
    if ended.exit.oom and policy.memory is not None:
        reason = f"{reason}; its limit is {human(policy.memory)}"
    return reason


def hopeless(ended: Ended) -> bool:
    """Whether the next start would run into the same wall."""
    return ended.exit.oom or ended.code == "out-of-memory"


def failed(step: Step, reason: str, ended: Ended) -> Step:
    """The step that will not be started again by itself."""
    return to(step, "failed", reason, exit=ended.exit, code="out-of-memory" if ended.exit.oom else ended.code)


def joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
