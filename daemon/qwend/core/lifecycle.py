"""The lifecycle of a step: `decide(step, policy, signal) -> (step, effects)`. Pure; it must not log.

Two tables, one for services and one for jobs; `table()` prints them into DESIGN.md. Time is a signal like
any other. A signal that has no meaning in a state changes nothing, so signals may come late or twice.
"""

from __future__ import annotations

import random
from typing import Literal

import msgspec

from qwend.core.lifecycle_jobs import decide_job
from qwend.core.moves import OFF, Decision, failed, hopeless, joined, to, why
from qwend.core.signals import (
    Acquire,
    Again,
    Blocked,
    Committed,
    Effect,
    End,
    Ended,
    Go,
    Granted,
    Healthy,
    Lacking,
    Late,
    NotCommitted,
    NotEnded,
    NotStarted,
    Refused,
    Release,
    Signal,
    Spawn,
    Started,
    Stop,
    Timer,
    Unhealthy,
    Watch,
)
from qwend.model.plan import Policy
from qwend.model.service import Exit, Handle, Step

MOVES = 5
"""Ports that a stranger may take from under us before a start fails."""


def decide(step: Step, policy: Policy, signal: Signal) -> Decision:
    """What becomes of a step, and what is to be done, in order."""
    return _service(step, policy, signal) if step.kind == "service" else decide_job(step, policy, signal)


def backoff(attempt: int, policy: Policy, key: str) -> float:
    """Seconds before restart number `attempt` (from 1): doubling up to the cap, with jitter of up to a quarter
    that depends on the step and the attempt only, so that it can be told beforehand."""
    restart = policy.restart
    base = min(restart.cap_s, restart.backoff_s * 2.0 ** min(attempt - 1, 30))
    return base * (1.0 - 0.25 * random.Random(f"{key}:{attempt}").random())


def _service(step: Step, policy: Policy, signal: Signal) -> Decision:
    match step.state, signal:
        case "pending" | "stopped" | "failed" | "backoff", Go():
            fresh = to(step, "waiting", want="up", after="", attempts=0, moves=0, exit=None, ended=None)
            return fresh, (Timer("backoff", None), Acquire())
        case "pending" | "stopped" | "failed", Lacking(reason=reason, code=code):
            return to(step, "failed", reason, code=code, exit=None), ()
        case "waiting", Blocked(reason=reason):
            return to(step, "waiting", reason), ()
        case "waiting", Refused(reason=reason, code=code):
            return to(step, "failed", reason, code=code), (Release(),)
        case "waiting", Granted(port=port, gpus=gpus):
            fresh = to(
                step, "starting", port=port, gpus=gpus, generation=step.generation + 1, handle=None, exit=None
            )
            return fresh, (Timer("deadline", policy.deadline_s), Spawn())
        case "starting" | "ready" | "unhealthy", Started(handle=handle):
            return msgspec.structs.replace(step, handle=handle), (Watch(),)
        case "starting", NotStarted(reason=reason, code="disk-full") if step.proven:
            waits = to(step, "backoff", f"waiting for room: {reason}", code="disk-full")
            return waits, (OFF, Release(), Timer("backoff", backoff(step.attempts + 1, policy, step.key)))
        case "starting", NotStarted(reason=reason) if step.proven and policy.restart.policy != "no":
            return _back_off(step, policy, reason, None, (OFF,))
        case "starting", NotStarted(reason=reason, code=code):
            return to(step, "failed", reason, code=code), (OFF, Release())
        case "starting", Healthy():
            ready = to(step, "ready", proven=True, moves=0)
            return ready, (Timer("deadline", None), Timer("reset", policy.restart.reset_s))
        case "unhealthy", Healthy():
            return to(step, "ready"), ()
        case "ready", Unhealthy(reason=reason):
            return to(step, "unhealthy", reason), ()
        case "unhealthy", Unhealthy(reason=reason):
            return to(step, "stopping", reason, after="backoff"), (End(policy.stop_grace_s),)
        case "starting", Late(timer="deadline"):
            reason = f"not ready after {policy.deadline_s:.0f} s"
            after = "backoff" if step.proven else "failed"
            return to(step, "stopping", reason, after=after), (End(policy.stop_grace_s),)
        case "ready", Late(timer="reset"):
            return msgspec.structs.replace(step, attempts=0), ()
        case "backoff", Late(timer="backoff"):
            return to(step, "waiting"), (Acquire(),)
        case "starting" | "ready" | "unhealthy", Ended() as ended:
            return _service_ended(step, policy, ended)
        case "stopping", NotEnded(reason=reason, code=code):
            return to(step, "stopping", reason, code=code), ()
        case "stopping", Ended(exit=ended):
            return _service_stopped(step, policy, ended)
        case "starting" | "ready" | "unhealthy", Stop(reason=reason, kill=kill):
            gone = to(step, "stopping", reason, want="down", after="stopped")
            return gone, (OFF, Timer("reset", None), End(0.0 if kill else policy.stop_grace_s))
        case "starting" | "ready" | "unhealthy", Again(reason=reason):
            return to(step, "stopping", reason, after="waiting"), (OFF, End(policy.stop_grace_s))
        case "stopping", Stop(kill=kill, reason=reason):
            gone = to(step, "stopping", reason or step.reason, want="down", after="stopped")
            return gone, (End(0.0),) if kill else ()
        case "stopping", Go() | Again() if step.want == "down" or step.after == "stopped":
            return to(step, "stopping", step.reason, want="up", after="waiting"), ()
        case "pending" | "waiting" | "backoff" | "idle", Stop(reason=reason):
            return to(step, "stopped", reason, want="down"), (Timer("backoff", None), Release())
        case "failed", Stop(reason=reason):
            return to(step, "stopped", reason or step.reason, want="down"), ()
        case "failed" | "stopped" | "backoff", Again():
            return decide(step, policy, Go())
    return step, ()


def _service_ended(step: Step, policy: Policy, ended: Ended) -> Decision:
    """It ended without being asked to."""
    reason = why(ended, policy)
    off = (OFF, Timer("reset", None))
    if step.state == "starting" and ended.port_taken:
        if step.moves < MOVES and policy.port is None:
            moved = to(
                step, "waiting", f"port {step.port} was taken by another program", moves=step.moves + 1
            )
            return moved, (*off, Release(), Acquire(move=True))
        return to(step, "failed", reason, exit=ended.exit, code="port-taken"), (*off, Release())
    restart = policy.restart
    wanted = restart.policy == "always" or (restart.policy == "on-failure" and not ended.exit.ok)
    if not wanted:
        gone = to(step, "stopped", reason, exit=ended.exit) if ended.exit.ok else failed(step, reason, ended)
        return gone, (*off, Release())
    if not step.proven and not ended.exit.lost:
        return failed(step, reason, ended), (*off, Release())
    if hopeless(ended):
        return failed(step, f"{reason}; it would meet the same wall again", ended), (*off, Release())
    return _back_off(step, policy, reason, ended.exit, off)


def _service_stopped(step: Step, policy: Policy, ended: Exit) -> Decision:
    """It ended as we asked it to."""
    reason = joined(step.reason, "killed at the deadline" if ended.killed else "")
    match step.after:
        case "waiting":
            return to(step, "waiting", reason, after="", exit=ended, attempts=0), (Release(), Acquire())
        case "backoff" if policy.restart.policy != "no":
            return _back_off(step, policy, reason, ended, ())
        case "failed" | "backoff":
            return to(step, "failed", reason, after="", exit=ended), (Release(),)
    return to(step, "stopped", reason, after="", exit=ended), (Release(),)


def _back_off(
    step: Step, policy: Policy, reason: str, ended: Exit | None, off: tuple[Effect, ...]
) -> Decision:
    attempts = step.attempts + 1
    limit = policy.restart.max
    if limit is not None and attempts > limit:
        failed = to(step, "failed", f"{reason}; gave up after {limit} restarts", after="", exit=ended)
        return failed, (*off, Release())
    waits = to(step, "backoff", reason, after="", exit=ended, attempts=attempts)
    return waits, (*off, Release(), Timer("backoff", backoff(attempts, policy, step.key)))


def table() -> str:
    """Both tables as Markdown, computed by asking `decide` about every state and signal."""
    return "\n\n".join(_table(kind) for kind in ("service", "job"))


_SAMPLES: tuple[Signal, ...] = (
    Go(), Blocked("…"), Refused("…"), Lacking("…"), Granted(), Started(Handle("native", "m", "1")), NotStarted("…"),
    Healthy(), Unhealthy("…"), Ended(Exit("m", code=0)), Ended(Exit("m", code=1), "…"), NotEnded("…"), Committed("…"),
    NotCommitted("…"), Late("deadline"), Late("backoff"), Late("reset"), Stop(), Again(),
)  # fmt: skip
_STATES = {
    "service": (
        "pending",
        "waiting",
        "starting",
        "ready",
        "unhealthy",
        "backoff",
        "stopping",
        "stopped",
        "failed",
    ),
    "job": ("pending", "waiting", "running", "succeeded", "failed", "cancelled"),
}


def _table(kind: Literal["service", "job"]) -> str:
    rows = [f"| {kind} | " + " | ".join(_STATES[kind]) + " |", "|---" * (len(_STATES[kind]) + 1) + "|"]
    for signal in _SAMPLES:
        cells = [_cell(kind, state, signal) for state in _STATES[kind]]
        if any(cells):
            name = type(signal).__name__
            name += {"Ended": f" {getattr(getattr(signal, 'exit', None), 'code', '')}"}.get(name, "")
            name += f" {signal.timer}" if isinstance(signal, Late) else ""
            rows.append(f"| **{name}** | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cell(kind: Literal["service", "job"], state: str, signal: Signal) -> str:
    before = Step(
        "r/s",
        "r",
        "s",
        kind,
        "e",
        "f",
        "run",
        state=state,
        proven=True,
        after="stopped" if state == "stopping" else "",
    )
    after, effects = decide(before, Policy(deadline_s=60.0, timeout_s=60.0), signal)
    if after == before and not effects:
        return ""
    done = ", ".join(type(effect).__name__ for effect in effects if not isinstance(effect, Timer))
    return f"{after.state} ({done})" if done else after.state


if __name__ == "__main__":
    print(table())
