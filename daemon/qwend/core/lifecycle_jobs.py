"""The lifecycle of a job; see `core.lifecycle`. Pure."""

from __future__ import annotations

import msgspec

from qwend.core.moves import OFF, Decision, failed, hopeless, joined, to, why
from qwend.core.signals import (
    Acquire,
    Blocked,
    Commit,
    Committed,
    End,
    Ended,
    Go,
    Granted,
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
    Watch,
)
from qwend.model.plan import Policy
from qwend.model.service import Step


def decide_job(step: Step, policy: Policy, signal: Signal) -> Decision:
    match step.state, signal:
        case "pending" | "failed" | "cancelled" | "succeeded" | "cached", Go():
            return to(
                step, "waiting", want="up", after="", attempts=0, exit=None, artifact=None, ended=None
            ), (Acquire(),)
        case "pending" | "failed" | "cancelled" | "succeeded" | "cached", Lacking(reason=reason, code=code):
            return to(step, "failed", reason, code=code, exit=None, artifact=None), ()
        case "waiting", Blocked(reason=reason):
            return to(step, "waiting", reason), ()
        case "waiting", Refused(reason=reason, code=code):
            return to(step, "failed", reason, code=code), (Release(),)
        case "waiting", Granted(gpus=gpus):
            fresh = to(step, "running", gpus=gpus, generation=step.generation + 1, handle=None, exit=None)
            return fresh, (Timer("deadline", policy.timeout_s), Spawn())
        case "running", Started(handle=handle):
            return msgspec.structs.replace(step, handle=handle), (Watch(),)
        case "running", NotStarted(reason=reason, code=code):
            return to(step, "failed", reason, code=code), (OFF, Release())
        case "running", Late(timer="deadline"):
            reason = f"killed at its deadline of {policy.timeout_s:.0f} s"
            return to(step, "running", reason, after="failed"), (End(policy.stop_grace_s),)
        case "running", NotEnded(reason=reason, code=code) if step.after:
            return msgspec.structs.replace(step, reason=reason, code=code), ()
        case "running", Ended() as ended:
            return _ended(step, policy, ended)
        case "running", Committed(artifact=artifact):
            return to(step, "succeeded", artifact=artifact), (Release(),)
        case "running", NotCommitted(reason=reason, code=code):
            return to(step, "failed", reason, code=code), (Release(),)
        case "running", Stop() if step.exit is not None:
            return msgspec.structs.replace(step, want="down"), ()
        case "running", Stop(kill=False) if step.after:  # it is ending already: its grace does not begin anew
            return msgspec.structs.replace(step, want="down", after="cancelled"), ()
        case "running", Stop(reason=reason, kill=kill):
            gone = to(step, "running", reason or "cancelled", want="down", after="cancelled")
            return gone, (End(0.0 if kill else policy.stop_grace_s),)
        case "pending" | "waiting", Stop(reason=reason):
            return to(step, "cancelled", reason, want="down"), (Release(),)
    return step, ()


def _ended(step: Step, policy: Policy, ended: Ended) -> Decision:
    if step.after:
        reason = joined(step.reason, "killed at the deadline" if ended.exit.killed else "")
        return to(step, step.after, reason, after="", exit=ended.exit), (OFF, Release())
    reason = why(ended, policy)
    if ended.exit.lost:
        return to(step, "waiting", "its exit code was lost: running again", exit=ended.exit), (
            OFF,
            Release(),
            Acquire(),
        )
    if ended.exit.ok:
        return msgspec.structs.replace(step, exit=ended.exit), (OFF, Commit())
    if step.attempts < policy.retries and not hopeless(ended):
        again = to(
            step,
            "waiting",
            f"{reason}; attempt {step.attempts + 2} of {policy.retries + 1}",
            exit=ended.exit,
            attempts=step.attempts + 1,
        )
        return again, (OFF, Release(), Acquire())
    return failed(step, reason, ended), (OFF, Release())
