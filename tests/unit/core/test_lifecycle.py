"""The lifecycle as a whole: whatever is told in whatever order, a step never lies about itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwend.core import lifecycle
from qwend.core.lifecycle import MOVES, backoff, decide
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
)
from qwend.model.plan import Policy, Restart
from qwend.model.service import Exit, Handle, Step

STATES = {
    "service": {
        "pending", "waiting", "starting", "ready", "unhealthy", "backoff", "stopping", "stopped", "failed"
    },
    "job": {"pending", "waiting", "running", "succeeded", "failed", "cancelled"},
}  # fmt: skip

EXITS = [
    Exit("m", code=0), Exit("m", code=1), Exit("m", signal=9), Exit("m", signal=9, oom=True), Exit("m", lost=True)
]  # fmt: skip
SIGNALS: list[Signal] = [
    Go(), Blocked("no gpu"), Refused("never"), Lacking("no image"), Granted(port=20000),
    Started(Handle("native", "m", "1")), NotStarted("no program"), Healthy(), Unhealthy("no answer"),
    *(Ended(exit) for exit in EXITS),
    Ended(Exit("m", code=1), port_taken=True), NotEnded("gone"), Committed("d"), NotCommitted("full"), Late("deadline"),
    Late("backoff"), Late("reset"), Stop(), Stop(kill=True), Again(), Ended(Exit("m", code=1), code="out-of-memory"),
]  # fmt: skip
policies = st.builds(
    Policy,
    restart=st.builds(
        Restart, policy=st.sampled_from(["no", "on-failure", "always"]), max=st.sampled_from([None, 0, 1, 3])
    ),
    retries=st.integers(0, 2),
    deadline_s=st.just(60.0),
    timeout_s=st.just(60.0),
)


def fresh(kind: Any) -> Step:
    return Step("r/s", "r", "s", kind, "e/e", "fp", "run")


class Machine:
    """What the effects of a step come to in a world that obeys: at most one process, leases held or not."""

    def __init__(self) -> None:
        self.processes = 0
        self.ending = False
        self.held = False
        self.asked = False
        self.committing = False

    def apply(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Acquire():
                    self.asked = True
                case Spawn():
                    assert self.processes == 0, "started while another of its processes lives"
                    self.processes += 1
                case End():
                    assert self.processes == 1, "ended what was not running"
                    self.ending = True
                case Commit():
                    self.committing = True
                case Release():
                    self.held = self.asked = False

    def possible(self, step: Step) -> list[Signal]:
        """What the world can tell now: grants after a question, ends of what runs. People may say anything."""
        found: list[Signal] = [Go(), Stop(), Stop(kill=True), Again(), Late("reset"), Late("backoff")]
        found.append(Lacking("no image"))
        if self.asked and not self.held:
            found += [Granted(port=20000), Blocked("busy"), Refused("never")]
        if self.processes:
            found += [Started(Handle("native", "m", "1")), *(Ended(exit) for exit in EXITS)]
            found += [Ended(Exit("m", code=1), port_taken=True)]
            if self.ending:
                found += [NotEnded("the engine is gone")]
            else:
                found += [Late("deadline")]
                # Nobody probes what has not been started.
                found += [Healthy(), Unhealthy("no answer")] if step.handle is not None else []
            if step.handle is None and not self.ending:
                found.append(NotStarted("no program"))
        if self.committing:
            found += [Committed("d"), NotCommitted("full")]
        return found

    def owed(self) -> Signal | None:
        """What the world tells next if nobody else does anything: the end of what is being ended or kept."""
        if self.processes:
            assert self.ending, "a process lives and nobody ends it"
            return Ended(Exit("m", signal=15))
        return Committed("d") if self.committing else None

    def happened(self, signal: Signal) -> None:
        match signal:
            case Granted():
                self.held = True
            case Ended() | NotStarted():
                self.processes = 0
                self.ending = False
            case Committed() | NotCommitted():
                self.committing = False


def stopped(kind: str, policy: Policy, data: st.DataObject) -> tuple[Step, Machine]:
    """A step that was told to stop, whatever happened before."""
    step, world = fresh(kind), Machine()
    for _ in range(data.draw(st.integers(0, 20))):
        signal = data.draw(st.sampled_from(world.possible(step)))
        world.happened(signal)
        step, effects = decide(step, policy, signal)
        world.apply(effects)
    step, effects = decide(step, policy, Stop("down"))
    world.apply(effects)
    return step, world


@settings(max_examples=600, deadline=None)
@given(kind=st.sampled_from(["service", "job"]), policy=policies, data=st.data())
def test_no_history_leads_to_an_illegal_state_a_second_process_or_a_lost_lease(
    kind: str, policy: Policy, data: st.DataObject
) -> None:
    step, world = fresh(kind), Machine()
    for _ in range(data.draw(st.integers(1, 40))):
        signal = data.draw(st.sampled_from(world.possible(step)))
        world.happened(signal)
        step, effects = decide(step, policy, signal)
        world.apply(effects)
        assert step.state in STATES[kind]
        assert not (step.settled and step.state != "ready" and world.held), "settled, but holds a lease"
        assert not (step.settled and step.state != "ready" and world.processes), (
            "settled, but a process lives"
        )
        assert bool(world.processes) <= step.alive, "a process lives that the row does not know"


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(["service", "job"]), policy=policies, data=st.data())
def test_after_down_nothing_comes_back_to_life_by_itself(
    kind: str, policy: Policy, data: st.DataObject
) -> None:
    step, world = stopped(kind, policy, data)
    for _ in range(data.draw(st.integers(0, 20))):
        asked = [one for one in world.possible(step) if not isinstance(one, Go | Again)]
        signal = data.draw(st.sampled_from(asked))
        world.happened(signal)
        step, effects = decide(step, policy, signal)
        assert not any(isinstance(effect, Spawn | Acquire) for effect in effects)
        world.apply(effects)


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(["service", "job"]), policy=policies, data=st.data())
def test_every_start_has_a_stop(kind: str, policy: Policy, data: st.DataObject) -> None:
    """Whatever came before: who is told to stop ends its process, and is settled as soon as that is gone."""
    step, world = stopped(kind, policy, data)
    while (owed := world.owed()) is not None:
        world.happened(owed)
        step, effects = decide(step, policy, owed)
        world.apply(effects)
    assert step.settled and step.state != "ready"
    assert not world.held and not world.asked


@given(
    kind=st.sampled_from(["service", "job"]),
    policy=policies,
    told=st.lists(st.sampled_from(SIGNALS), max_size=30),
)
def test_any_signal_in_any_state_is_answered_and_never_raises(
    kind: str, policy: Policy, told: list[Signal]
) -> None:
    step = fresh(kind)
    for signal in told:
        step, _ = decide(step, policy, signal)
        assert step.state in STATES[kind]
        assert msgspec.convert(msgspec.to_builtins(step), Step) == step


def recovered(step: Step, world: Machine, ended: Exit, policy: Policy) -> tuple[Step, tuple[Effect, ...]]:
    """What `reconciler.recovery` does with a row that the last daemon left behind."""
    if not step.alive:
        if step.state == "backoff":
            return decide(step, policy, Late("backoff"))
        return step, (Acquire(),) if step.state == "waiting" else ()
    if world.processes and (step.state == "stopping" or step.after):
        return step, (End(policy.stop_grace_s),)
    if world.processes:
        return decide(step, policy, Started(Handle("native", "m", "1")))
    if step.exit is not None and step.exit.ok and not step.after:
        return step, (Commit(),)
    return decide(step, policy, Ended(ended))


@settings(max_examples=600, deadline=None)
@given(kind=st.sampled_from(["service", "job"]), policy=policies, data=st.data())
def test_a_crash_between_any_two_effects_recovers(kind: str, policy: Policy, data: st.DataObject) -> None:
    """The row is durable, some of its effects are done, the daemon dies: the next one owes nothing to anybody."""
    step, world = fresh(kind), Machine()
    for _ in range(data.draw(st.integers(1, 25))):
        signal = data.draw(st.sampled_from(world.possible(step)))
        world.happened(signal)
        step, effects = decide(step, policy, signal)
        cut = data.draw(st.none() | st.integers(0, len(effects)))
        world.apply(effects if cut is None else effects[:cut])
        if cut is None:
            continue
        # Leases, timers and what was asked for were in memory; processes are not, unless the machine went down.
        world.ending = world.asked = world.committing = False
        world.held = step.alive
        if data.draw(st.booleans()):
            world.processes = 0
        wanted, processes = step.want, world.processes
        before = step
        step, effects = recovered(step, world, data.draw(st.sampled_from(EXITS)), policy)
        world.apply(effects)
        assert not (wanted == "down" and any(isinstance(one, Acquire | Spawn) for one in effects)) or (
            before.state in {"waiting", "backoff"}
        ), "came back to life after down"
        assert not (processes and step.settled and step.state != "ready"), "forgot a process that lives"
        assert step.settled or step.state == "pending" or effects or step.alive, "waits for nobody"
        assert not (step.settled and step.state != "ready" and world.held), "settled, but holds a lease"


@given(policy=policies, attempt=st.integers(1, 200))
def test_backoff_stays_between_three_quarters_of_its_base_and_the_cap(policy: Policy, attempt: int) -> None:
    waits = backoff(attempt, policy, "r/s")
    assert 0.75 * min(policy.restart.cap_s, policy.restart.backoff_s) <= waits <= policy.restart.cap_s


@pytest.mark.parametrize(
    ("policy", "code", "becomes"),
    [
        ("always", 0, "backoff"), ("always", 1, "backoff"), ("on-failure", 0, "stopped"),
        ("on-failure", 1, "backoff"), ("no", 0, "stopped"), ("no", 1, "failed"),
    ],
)  # fmt: skip
def test_the_policy_says_who_comes_back(policy: Any, code: int, becomes: str) -> None:
    ready = msgspec.structs.replace(fresh("service"), state="ready", proven=True)
    step, effects = decide(ready, Policy(restart=Restart(policy=policy)), Ended(Exit("m", code=code)))
    assert step.state == becomes
    waits = any(isinstance(effect, Timer) and effect.name == "backoff" for effect in effects)
    assert waits == (becomes == "backoff")


def test_each_backoff_is_about_twice_the_last() -> None:
    waits = [
        backoff(attempt, Policy(restart=Restart(backoff_s=1.0, cap_s=60.0)), "r/s") for attempt in range(1, 8)
    ]
    bases = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert all(0.75 * base <= wait <= base for wait, base in zip(waits, bases, strict=True)), waits


def test_two_services_that_crash_together_do_not_come_back_in_step() -> None:
    assert backoff(3, Policy(), "r/one") != backoff(3, Policy(), "r/two")


def test_a_stranger_on_the_port_is_evaded_only_so_often() -> None:
    step, starts = fresh("service"), 0
    step, _ = decide(step, Policy(), Go())
    for _ in range(MOVES + 3):
        step, _ = decide(step, Policy(), Granted(port=20000 + starts))
        starts += step.state == "starting"
        step, _ = decide(step, Policy(), Ended(Exit("m", code=98), port_taken=True))
    assert step.state == "failed"
    assert starts == MOVES + 1


def test_a_fixed_port_is_never_evaded() -> None:
    step, _ = decide(fresh("service"), Policy(port=8080), Go())
    step, _ = decide(step, Policy(port=8080), Granted(port=8080))
    step, _ = decide(step, Policy(port=8080), Ended(Exit("m", code=98), "address in use", port_taken=True))
    assert (step.state, step.reason) == ("failed", "address in use")


@pytest.mark.parametrize("when", ["waiting", "starting", "ready", "unhealthy", "backoff"])
def test_down_is_heard_in_every_state_of_a_service(when: str) -> None:
    step, effects = decide(msgspec.structs.replace(fresh("service"), state=when), Policy(), Stop())
    assert step.want == "down"
    assert step.state in {"stopping", "stopped"}
    assert (step.state == "stopping") == any(isinstance(effect, End) for effect in effects)


def test_a_second_stop_kills_without_waiting() -> None:
    step, _ = decide(msgspec.structs.replace(fresh("service"), state="ready"), Policy(), Stop())
    _, effects = decide(step, Policy(), Stop(kill=True))
    assert effects == (End(0.0),)


def test_a_killed_service_says_so() -> None:
    step, _ = decide(msgspec.structs.replace(fresh("service"), state="ready"), Policy(), Stop("down"))
    step, _ = decide(step, Policy(), Ended(Exit("m", signal=9, killed=True)))
    assert (step.state, step.reason) == ("stopped", "down; killed at the deadline")


def test_a_job_whose_exit_code_was_lost_runs_again() -> None:
    running = msgspec.structs.replace(fresh("job"), state="running", generation=1)
    step, effects = decide(running, Policy(), Ended(Exit("m", lost=True)))
    assert step.state == "waiting"
    assert any(isinstance(effect, Acquire) for effect in effects)


def test_a_cancelled_job_is_not_taken_for_a_failed_one() -> None:
    step, _ = decide(msgspec.structs.replace(fresh("job"), state="running"), Policy(retries=3), Stop("down"))
    step, effects = decide(step, Policy(retries=3), Ended(Exit("m", signal=15)))
    assert step.state == "cancelled"
    assert effects == (Timer("deadline", None), Release())


def test_a_job_at_its_deadline_fails_and_says_what_ended_it() -> None:
    policy = Policy(timeout_s=30.0)
    step, effects = decide(msgspec.structs.replace(fresh("job"), state="running"), policy, Late("deadline"))
    assert effects == (End(10.0),)
    step, _ = decide(step, policy, Ended(Exit("m", signal=15)))
    assert (step.state, step.reason) == ("failed", "killed at its deadline of 30 s")


def test_retries_are_counted_and_end() -> None:
    step, starts = fresh("job"), 0
    step, _ = decide(step, Policy(retries=2), Go())
    while step.state == "waiting":
        step, _ = decide(step, Policy(retries=2), Granted())
        starts += 1
        step, _ = decide(step, Policy(retries=2), Ended(Exit("m", code=1), "boom"))
    assert (step.state, step.reason, starts) == ("failed", "boom", 3)


def test_both_tables_can_be_printed() -> None:
    text = lifecycle.table()
    assert text.count("| **Stop** |") == 2
