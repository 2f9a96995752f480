"""The lifecycle of a step: `decide(step, policy, signal) -> (step, effects)`. Pure; it must not log.

Two tables, one for services and one for jobs; `table()` prints them into DESIGN.md. Time is a signal like
any other. A signal that has no meaning in a state changes nothing, so signals may come late or twice.
"""

from __future__ import annotations

import random
from typing import Literal

import msgspec

from qwend.core.signals import (
    Acquire,
    Again,
    Blocked,
    Commit,
    Committed,
    Effect,
    End,
    Ended,
    Go,
    Granted,
    Healthy,
    Late,
    NotCommitted,
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

Decision = tuple[Step, tuple[Effect, ...]]


def decide(step: Step, policy: Policy, signal: Signal) -> Decision:
    """What becomes of a step, and what is to be done, in order."""
    return _service(step, policy, signal) if step.kind == "service" else _job(step, policy, signal)


def backoff(attempt: int, policy: Policy, key: str) -> float:
    """Seconds before restart number `attempt` (from 1): doubling up to the cap, with jitter of up to a quarter
    that depends on the step and the attempt only, so that it can be told beforehand."""
    restart = policy.restart
    base = min(restart.cap_s, restart.backoff_s * 2.0 ** min(attempt - 1, 30))
    return base * (1.0 - 0.25 * random.Random(f"{key}:{attempt}").random())


def _to(step: Step, state: str, reason: str = "", **fields: object) -> Step:
    return msgspec.structs.replace(step, **{"state": state, "reason": reason, "code": "", **fields})


def _service(step: Step, policy: Policy, signal: Signal) -> Decision:
    match step.state, signal:
        case "pending" | "stopped" | "failed" | "backoff", Go():
            fresh = _to(step, "waiting", want="up", after="", attempts=0, moves=0, exit=None, ended=None)
            return fresh, (Timer("backoff", None), Acquire())
        case "waiting", Blocked(reason=reason):
            return _to(step, "waiting", reason), ()
        case "waiting", Refused(reason=reason, code=code):
            return _to(step, "failed", reason, code=code), (Release(),)
        case "waiting", Granted(port=port, gpus=gpus):
            fresh = _to(
                step, "starting", port=port, gpus=gpus, generation=step.generation + 1, handle=None, exit=None
            )
            return fresh, (Timer("deadline", policy.deadline_s), Spawn())
        case "starting" | "ready" | "unhealthy", Started(handle=handle):
            return msgspec.structs.replace(step, handle=handle), (Watch(),)
        case "starting", NotStarted(reason=reason, code=code):
            return _to(step, "failed", reason, code=code), (Timer("deadline", None), Release())
        case "starting", Healthy():
            ready = _to(step, "ready", proven=True, moves=0)
            return ready, (Timer("deadline", None), Timer("reset", policy.restart.reset_s))
        case "unhealthy", Healthy():
            return _to(step, "ready"), ()
        case "ready", Unhealthy(reason=reason):
            return _to(step, "unhealthy", reason), ()
        case "unhealthy", Unhealthy(reason=reason):
            return _to(step, "stopping", reason, after="backoff"), (End(policy.stop_grace_s),)
        case "starting", Late(timer="deadline"):
            reason = f"not ready after {policy.deadline_s:.0f} s"
            return _to(step, "stopping", reason, after="failed"), (End(policy.stop_grace_s),)
        case "ready", Late(timer="reset"):
            return msgspec.structs.replace(step, attempts=0), ()
        case "backoff", Late(timer="backoff"):
            return _to(step, "waiting"), (Acquire(),)
        case "starting" | "ready" | "unhealthy", Ended() as ended:
            return _service_ended(step, policy, ended)
        case "stopping", Ended(exit=ended):
            return _service_stopped(step, policy, ended)
        case "starting" | "ready" | "unhealthy", Stop(reason=reason, kill=kill):
            gone = _to(step, "stopping", reason, want="down", after="stopped")
            return gone, (_OFF, Timer("reset", None), End(0.0 if kill else policy.stop_grace_s))
        case "starting" | "ready" | "unhealthy", Again(reason=reason):
            return _to(step, "stopping", reason, after="waiting"), (_OFF, End(policy.stop_grace_s))
        case "stopping", Stop(kill=kill, reason=reason):
            gone = _to(step, "stopping", reason or step.reason, want="down", after="stopped")
            return gone, (End(0.0),) if kill else ()
        case "stopping", Go() | Again() if step.want == "down" or step.after == "stopped":
            return _to(step, "stopping", step.reason, want="up", after="waiting"), ()
        case "pending" | "waiting" | "backoff" | "idle", Stop(reason=reason):
            return _to(step, "stopped", reason, want="down"), (Timer("backoff", None), Release())
        case "failed", Stop(reason=reason):
            return _to(step, "stopped", reason or step.reason, want="down"), ()
        case "failed" | "stopped" | "backoff", Again():
            return decide(step, policy, Go())
    return step, ()


_OFF = Timer("deadline", None)


def _service_ended(step: Step, policy: Policy, ended: Ended) -> Decision:
    """It ended without being asked to."""
    reason = ended.reason or ended.exit.describe()
    off = (_OFF, Timer("reset", None))
    if step.state == "starting" and ended.port_taken:
        if step.moves < MOVES and policy.port is None:
            moved = _to(
                step, "waiting", f"port {step.port} was taken by another program", moves=step.moves + 1
            )
            return moved, (*off, Release(), Acquire(move=True))
        return _to(step, "failed", reason, exit=ended.exit), (*off, Release())
    restart = policy.restart
    wanted = restart.policy == "always" or (restart.policy == "on-failure" and not ended.exit.ok)
    if not wanted:
        state = "stopped" if ended.exit.ok else "failed"
        return _to(step, state, reason, exit=ended.exit), (*off, Release())
    if not step.proven and not ended.exit.lost:
        return _to(step, "failed", reason, exit=ended.exit), (*off, Release())
    if ended.exit.oom:
        return _to(step, "failed", f"{reason}; it would meet the same wall again", exit=ended.exit), (
            *off,
            Release(),
        )
    return _back_off(step, policy, reason, ended.exit, off)


def _service_stopped(step: Step, policy: Policy, ended: Exit) -> Decision:
    """It ended as we asked it to."""
    how = "killed at the deadline" if ended.killed else ""
    reason = "; ".join(part for part in (step.reason, how) if part)
    match step.after:
        case "waiting":
            return _to(step, "waiting", reason, after="", exit=ended, attempts=0), (Release(), Acquire())
        case "backoff":
            return _back_off(step, policy, reason, ended, ())
        case "failed":
            return _to(step, "failed", reason, after="", exit=ended), (Release(),)
    return _to(step, "stopped", reason, after="", exit=ended), (Release(),)


def _back_off(step: Step, policy: Policy, reason: str, ended: Exit, off: tuple[Effect, ...]) -> Decision:
    attempts = step.attempts + 1
    limit = policy.restart.max
    if limit is not None and attempts > limit:
        failed = _to(step, "failed", f"{reason}; gave up after {limit} restarts", after="", exit=ended)
        return failed, (*off, Release())
    waits = _to(step, "backoff", reason, after="", exit=ended, attempts=attempts)
    return waits, (*off, Release(), Timer("backoff", backoff(attempts, policy, step.key)))


def _job(step: Step, policy: Policy, signal: Signal) -> Decision:
    match step.state, signal:
        case "pending" | "failed" | "cancelled" | "succeeded" | "cached", Go():
            return _to(
                step, "waiting", want="up", after="", attempts=0, exit=None, artifact=None, ended=None
            ), (Acquire(),)
        case "waiting", Blocked(reason=reason):
            return _to(step, "waiting", reason), ()
        case "waiting", Refused(reason=reason, code=code):
            return _to(step, "failed", reason, code=code), (Release(),)
        case "waiting", Granted(gpus=gpus):
            fresh = _to(step, "running", gpus=gpus, generation=step.generation + 1, handle=None, exit=None)
            return fresh, (Timer("deadline", policy.timeout_s), Spawn())
        case "running", Started(handle=handle):
            return msgspec.structs.replace(step, handle=handle), (Watch(),)
        case "running", NotStarted(reason=reason, code=code):
            return _to(step, "failed", reason, code=code), (_OFF, Release())
        case "running", Late(timer="deadline"):
            reason = f"killed at its deadline of {policy.timeout_s:.0f} s"
            return _to(step, "running", reason, after="failed"), (End(policy.stop_grace_s),)
        case "running", Ended() as ended:
            return _job_ended(step, policy, ended)
        case "running", Committed(artifact=artifact):
            return _to(step, "succeeded", artifact=artifact), (Release(),)
        case "running", NotCommitted(reason=reason, code=code):
            return _to(step, "failed", reason, code=code), (Release(),)
        case "running", Stop() if step.exit is not None:
            return msgspec.structs.replace(step, want="down"), ()
        case "running", Stop(reason=reason, kill=kill):
            gone = _to(step, "running", reason or "cancelled", want="down", after="cancelled")
            return gone, (End(0.0 if kill else policy.stop_grace_s),)
        case "pending" | "waiting", Stop(reason=reason):
            return _to(step, "cancelled", reason, want="down"), (Release(),)
    return step, ()


def _job_ended(step: Step, policy: Policy, ended: Ended) -> Decision:
    reason = ended.reason or ended.exit.describe()
    if step.after:
        return _to(step, step.after, step.reason, after="", exit=ended.exit), (_OFF, Release())
    if ended.exit.lost:
        return _to(step, "waiting", "its exit code was lost: running again", exit=ended.exit), (
            _OFF,
            Release(),
            Acquire(),
        )
    if ended.exit.ok:
        return msgspec.structs.replace(step, exit=ended.exit), (_OFF, Commit())
    if step.attempts < policy.retries and not ended.exit.oom:
        again = _to(
            step,
            "waiting",
            f"{reason}; attempt {step.attempts + 2} of {policy.retries + 1}",
            exit=ended.exit,
            attempts=step.attempts + 1,
        )
        return again, (_OFF, Release(), Acquire())
    return _to(step, "failed", reason, exit=ended.exit), (_OFF, Release())


def table() -> str:
    """Both tables as Markdown, computed by asking `decide` about every state and signal."""
    return "\n\n".join(_table(kind) for kind in ("service", "job"))


_SAMPLES: tuple[Signal, ...] = (
    Go(), Blocked("…"), Refused("…"), Granted(), Started(Handle("native", "m", "1")), NotStarted("…"), Healthy(),
    Unhealthy("…"), Ended(Exit("m", code=0)), Ended(Exit("m", code=1), "…"), Committed("…"), NotCommitted("…"),
    Late("deadline"), Late("backoff"), Late("reset"), Stop(), Again(),
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
