"""Leases: all at once, first come first served, nobody starves, and every wait has a reason."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from qwend.core.leasing import Decision, decide
from qwend.core.wants import Want
from qwend.model.host import Gpu, Host
from qwend.model.lease import Lease

GIB = 1024**3


def machine(gpus: int = 2, cpus: int = 8, memory: int = 32, available: int | None = None) -> Host:
    cards = tuple(Gpu(index, f"GPU-{index}", "card", 24 * GIB, 24 * GIB) for index in range(gpus))
    free = None if available is None else available * GIB
    return Host("linux", "x86_64", cpus, memory * GIB, free, gpus=cards)


def granted(decision: Decision) -> dict[str, tuple[str, ...]]:
    return {grant.holder: grant.gpus for grant in decision.grants}


def test_a_step_that_fits_is_let_go_with_all_that_it_asked_for() -> None:
    decision = decide([Want("r/a", cpus=2, memory=4 * GIB, gpus=1, heavy=True)], [], machine())
    kinds = {lease.kind: lease for lease in decision.grants[0].leases}
    assert kinds["cpus"].amount == 2
    assert kinds["memory"].amount == 4 * GIB
    assert kinds["gpu"].name == "GPU-0"
    assert kinds["heavy"].holder == "r/a"


def test_the_reason_names_the_card_and_who_holds_it() -> None:
    held = [Lease("gpu", "GPU-0", "huanhuan/chat")]
    decision = decide([Want("r/train", cards=("0",))], held, machine())
    assert decision.reasons == {"r/train": "waiting for gpu 0: held by huanhuan/chat"}


def test_a_card_named_by_its_uuid_is_the_same_card() -> None:
    held = [Lease("gpu", "GPU-1", "a/b")]
    decision = decide([Want("r/x", cards=("GPU-1",)), Want("r/y", cards=("GPU-0",))], held, machine())
    assert "gpu 1: held by a/b" in decision.reasons["r/x"]
    assert granted(decision) == {"r/y": ("GPU-0",)}


def test_memory_that_other_programs_hold_on_a_card_counts_as_used() -> None:
    card = Gpu(0, "GPU-0", "card", 24 * GIB, memory_free=6 * GIB)
    host = Host("linux", "x86_64", 8, gpus=(card,))
    decision = decide([Want("r/serve", gpus=1, gpu_memory=10 * GIB)], [], host)
    assert "needs 10.0 GiB, 6.0 GiB free, other programs hold the rest" in decision.reasons["r/serve"]


def test_of_two_cards_the_emptier_one_is_taken_whole() -> None:
    cards = (Gpu(0, "GPU-0", "c", 24 * GIB, 6 * GIB), Gpu(1, "GPU-1", "c", 24 * GIB, 23 * GIB))
    decision = decide([Want("r/serve", gpus=1)], [], Host("linux", "x86_64", 8, gpus=cards))
    assert granted(decision) == {"r/serve": ("GPU-1",)}


def test_shares_of_one_card_add_up_to_the_whole_and_no_further() -> None:
    wants = [Want("r/a", gpus=1, share=0.4), Want("r/b", gpus=1, share=0.6), Want("r/c", gpus=1, share=0.1)]
    decision = decide(wants, [], machine(gpus=1))
    assert set(granted(decision)) == {"r/a", "r/b"}
    assert "held by r/a (0.4 of it), r/b (0.6 of it)" in decision.reasons["r/c"]


def test_a_second_share_goes_to_the_card_that_is_shared_already() -> None:
    decision = decide([Want("r/b", gpus=1, share=0.5)], [Lease("gpu", "GPU-1", "r/a", 0.5)], machine())
    assert granted(decision) == {"r/b": ("GPU-1",)}


def test_heavy_steps_take_turns_while_light_ones_go_on() -> None:
    wants = [Want("r/a", heavy=True), Want("r/b", heavy=True), Want("r/c", memory=GIB)]
    decision = decide(wants, [], machine())
    assert set(granted(decision)) == {"r/a", "r/c"}
    assert decision.reasons["r/b"] == "waiting for its turn among heavy steps: r/a runs"


def test_a_later_step_does_not_take_what_an_earlier_one_waits_for() -> None:
    held = [Lease("memory", "memory", "r/big", 20.0 * GIB)]
    decision = decide([Want("r/first", memory=24 * GIB), Want("r/small", memory=8 * GIB)], held, machine())
    assert granted(decision) == {}
    assert "r/big (20.0 GiB)" in decision.reasons["r/first"]
    assert decision.reasons["r/small"].startswith("waiting behind r/first")


def test_a_later_step_that_needs_none_of_it_passes() -> None:
    held = [Lease("gpu", "GPU-0", "r/job")]
    decision = decide([Want("r/first", cards=("0",)), Want("r/other", cards=("1",))], held, machine())
    assert granted(decision) == {"r/other": ("GPU-1",)}


def test_a_later_step_gets_another_card_than_the_one_that_is_kept_for_an_earlier() -> None:
    held = [Lease("heavy", "heavy", "r/job")]
    wants = [Want("r/first", cards=("0",), heavy=True), Want("r/small", gpus=1, share=0.25)]
    assert granted(decide(wants, held, machine())) == {"r/small": ("GPU-1",)}


def test_a_step_that_waits_for_a_service_idles_nothing_else() -> None:
    held = [Lease("gpu", "GPU-0", "r/chat")]
    wants = [Want("r/first", cards=("0",), memory=30 * GIB), Want("r/small", memory=8 * GIB)]
    assert set(granted(decide(wants, held, machine(), lasting={"r/chat"}))) == {"r/small"}
    assert set(granted(decide(wants, held, machine()))) == set()


def test_a_step_does_not_stand_in_its_own_way_or_in_that_of_its_replacement() -> None:
    held = [Lease("gpu", "GPU-0", "r/chat"), Lease("memory", "memory", "r/chat", 30.0 * GIB)]
    again = Want("r/chat", cards=("0",), memory=30 * GIB)
    instead = Want("r/convert", cards=("0",), memory=30 * GIB, instead_of=("r/chat",))
    assert granted(decide([again], held, machine(available=2))) == {"r/chat": ("GPU-0",)}
    assert granted(decide([instead], held, machine(available=2))) == {"r/convert": ("GPU-0",)}


def test_memory_of_other_programs_is_waited_for_and_said() -> None:
    decision = decide([Want("r/a", memory=16 * GIB)], [], machine(available=10))
    assert decision.reasons["r/a"] == (
        "waiting for 16.0 GiB of memory: 10.0 GiB free, other programs hold the rest"
    )


def test_two_steps_let_go_together_are_not_promised_the_same_free_memory() -> None:
    wants = [Want("r/a", memory=6 * GIB), Want("r/b", memory=6 * GIB)]
    assert set(granted(decide(wants, [], machine(available=8)))) == {"r/a"}


def test_what_the_machine_can_never_give_is_refused_at_once() -> None:
    wants = [
        Want("r/a", cards=("7",)),
        Want("r/b", gpus=3),
        Want("r/c", gpus=1, gpu_memory=80 * GIB),
        Want("r/d", memory=64 * GIB),
        Want("r/e", cpus=9),
        Want("r/f", cards=("0", "GPU-0")),
    ]
    refused = decide(wants, [], machine()).refused
    assert refused["r/a"] == "there is no gpu 7 here (there are 0, 1)"
    assert refused["r/b"] == "needs 3 gpus; this machine has 2"
    assert "the largest has 24.0 GiB" in refused["r/c"]
    assert refused["r/d"] == "needs 64.0 GiB of memory; this machine has 32.0 GiB"
    assert refused["r/e"] == "needs 9 cpus; this machine has 8"
    assert refused["r/f"] == "gpus 0, GPU-0: one card is named twice"


def test_unknown_facts_block_nothing() -> None:
    host = Host("linux", "x86_64", 4, None, None, gpus=(Gpu(0, "GPU-0", "card", 8 * GIB),))
    assert set(granted(decide([Want("r/a", memory=999 * GIB, gpus=1)], [], host))) == {"r/a"}


# Properties ------------------------------------------------------------------------------------------------

HOSTS = st.builds(
    lambda gpus, cpus, memory, free: machine(gpus, cpus, memory, min(memory, free)),
    st.integers(0, 3),
    st.integers(1, 8),
    st.integers(1, 32),
    st.integers(1, 32),
)
SHARES = st.sampled_from([0.25, 0.4, 0.5, 0.6, 1.0])


def wants_of(name: str) -> st.SearchStrategy[Want]:
    return st.builds(
        Want,
        st.just(name),
        cpus=st.none() | st.integers(1, 9).map(float),
        memory=st.none() | st.integers(1, 33).map(lambda gib: gib * GIB),
        gpus=st.integers(0, 3),
        cards=st.just(()) | st.lists(st.sampled_from("0123"), max_size=2, unique=True).map(tuple),
        share=SHARES,
        gpu_memory=st.none() | st.integers(1, 25).map(lambda gib: gib * GIB),
        heavy=st.booleans(),
    )


QUEUES = st.integers(0, 7).flatmap(
    lambda length: st.tuples(*(wants_of(f"r/s{index}") for index in range(length))).map(list)
)


def run_down(decision: Decision) -> list[Lease]:
    return [lease for grant in decision.grants for lease in grant.leases]


def check_capacity(host: Host, held: list[Lease]) -> None:
    def total(kind: str) -> float:
        return sum(lease.amount for lease in held if lease.kind == kind)

    assert total("cpus") <= host.cpus
    assert host.memory is None or total("memory") <= host.memory
    assert total("heavy") <= 1
    for gpu in host.gpus:
        on = sum(lease.amount for lease in held if lease.kind == "gpu" and lease.name == gpu.uuid)
        assert on <= 1 + 1e-6


@given(HOSTS, QUEUES)
def test_nothing_is_given_twice_and_each_gets_all_or_a_reason(host: Host, queue: list[Want]) -> None:
    decision = decide(queue, [], host)
    held = run_down(decision)
    check_capacity(host, held)
    if host.memory_available is not None:
        assert sum(one.amount for one in held if one.kind == "memory") <= host.memory_available
    told = [*granted(decision), *decision.reasons, *decision.refused]
    assert sorted(told) == sorted(want.holder for want in queue)
    for want in queue:
        grant = next((one for one in decision.grants if one.holder == want.holder), None)
        if grant is not None:
            assert len(set(grant.gpus)) == want.count
            wanted = want.count + (want.memory is not None) + (want.cpus is not None) + want.heavy
            assert len(grant.leases) == wanted


@given(HOSTS, QUEUES)
def test_those_behind_never_change_what_those_before_them_get(host: Host, queue: list[Want]) -> None:
    whole = decide(queue, [], host)
    for length in range(len(queue)):
        before = decide(queue[:length], [], host)
        names = {want.holder for want in queue[:length]}
        assert [grant for grant in whole.grants if grant.holder in names] == list(before.grants)
        assert {name: why for name, why in whole.reasons.items() if name in names} == before.reasons


@settings(deadline=None)
@given(HOSTS, QUEUES, st.randoms(use_true_random=False))
def test_jobs_that_end_let_every_waiting_step_through_though_small_ones_keep_coming(
    host: Host, queue: list[Want], random: Random
) -> None:
    host = machine(len(host.gpus), host.cpus, int((host.memory or 0) / GIB))
    waiting = [want for want in queue if not decide([want], [], host).refused]
    patient = {want.holder for want in waiting}
    held: list[Lease] = []
    running: list[str] = []
    for round_ in range(120):
        intruder = Want(f"r/new{round_}", cpus=1.0, memory=GIB, gpus=min(1, len(host.gpus)), share=0.25)
        waiting.append(intruder)
        decision = decide(waiting, held, host)
        held += run_down(decision)
        check_capacity(host, held)
        running += [grant.holder for grant in decision.grants]
        waiting = [want for want in waiting if want.holder not in running]
        patient -= set(running)
        if not patient:
            return
        assert running, "nothing runs and nothing may start: a deadlock"
        # Any may end, but none lasts for ever: every second time it is the oldest.
        ends = running[0] if round_ % 2 else random.choice(running)
        running.remove(ends)
        held = [lease for lease in held if lease.holder != ends]
    raise AssertionError(f"still waiting after 120 rounds: {patient}")
