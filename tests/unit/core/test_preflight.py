from __future__ import annotations

from typing import Any

import pytest
from tests.unit.core.compile_kit import CHAIN, compiled, host

from qwend.core.planner import Snapshot, plan
from qwend.core.preflight import platform
from qwend.model.host import Gpu
from qwend.model.plan import Plan

GIB = 1024**3


def planned(text: str, machine: Any, **more: Any) -> Plan:
    return plan(compiled(text, host=machine, **more), Snapshot(host=machine))


def test_too_little_memory_is_said_before_anything_is_downloaded() -> None:
    (blocker,) = planned(CHAIN, host(memory=GIB // 2)).blockers
    assert blocker == (
        "chat: needs about 807.3 MiB of memory (weights 235.6 MiB, KV cache 48.0 MiB for a context of 4096, "
        "headroom 523.8 MiB); this machine has 512.0 MiB"
    )


def test_a_longer_context_needs_more_memory() -> None:
    text = CHAIN.replace("from: q4}", "from: q4, with: {context: 1000000}}")
    machine = host(memory=8 * GIB)
    assert planned(CHAIN, machine).blockers == ()
    (blocker,) = planned(text, machine).blockers
    assert "KV cache 11.4 GiB for a context of 1000000" in blocker


def test_services_that_fit_one_by_one_and_not_together_are_a_blocker() -> None:
    text = CHAIN + "  more: {uses: toy/serve, from: q4}\n"
    machine = host(memory=GIB)
    assert planned(CHAIN, machine).blockers == ()
    (blocker,) = planned(text, machine).blockers
    assert blocker.startswith("chat, more together need about")


def test_memory_that_others_hold_is_a_warning() -> None:
    made = planned(CHAIN, host(memory=8 * GIB, memory_available=GIB // 4))
    assert made.blockers == ()
    assert any("free now: steps may have to wait" in text for text in made.warnings)


def test_a_limit_of_the_recipe_below_the_need_is_a_warning() -> None:
    made = planned(CHAIN.replace("from: q4}", "from: q4, memory: 100M}"), host())
    assert any("memory: allows 100.0 MiB" in text for text in made.warnings)


def test_too_little_disk_is_a_blocker_and_almost_too_little_a_warning() -> None:
    need = planned(CHAIN, host()).disk
    (blocker,) = planned(CHAIN, host(disk_free=need - 1)).blockers
    assert blocker.startswith("about 2.3 GiB of disk are needed")
    assert planned(CHAIN, host(disk_free=need + 1)).blockers == ()
    assert any("of disk" in text for text in planned(CHAIN, host(disk_free=need + 1)).warnings)


def test_what_nobody_knows_blocks_nothing() -> None:
    made = planned(CHAIN, host(memory=None, memory_available=None, disk_free=None))
    assert (made.blockers, made.warnings) == ((), ())


def test_a_card_that_is_too_small_is_a_blocker_and_a_full_one_a_warning() -> None:
    text = CHAIN.replace("from: q4}", "from: q4, with: {context: 1000000}}")
    small = Gpu(0, "GPU-a", "NVIDIA L4", 8 * GIB, None, (8, 9))
    (blocker,) = planned(text, host("cuda", gpus=(small,))).blockers
    assert "on a card" in blocker
    assert "gpu 0 has 8.0 GiB" in blocker
    full = Gpu(0, "GPU-a", "NVIDIA H100", 80 * GIB, GIB, (9, 0))
    made = planned(text, host("cuda", gpus=(full,)))
    assert made.blockers == ()
    assert any("gpu 0 has 1.0 GiB free: it may have to wait" in text for text in made.warnings)


def test_only_the_cards_that_were_named_count() -> None:
    text = CHAIN.replace("from: q4}", "from: q4, gpus: [1], with: {context: 1000000}}")
    cards = (
        Gpu(0, "GPU-a", "NVIDIA H100", 80 * GIB, None, (9, 0)),
        Gpu(1, "GPU-b", "NVIDIA L4", 8 * GIB, None, (8, 9)),
    )
    (blocker,) = planned(text, host("cuda", gpus=cards)).blockers
    assert "gpu 1 has 8.0 GiB" in blocker
    assert "gpu 0" not in blocker


def test_a_share_of_a_card_is_all_that_a_step_may_count_on() -> None:
    text = CHAIN.replace("from: q4}", "from: q4, gpu_share: 0.1, with: {context: 1000000}}")
    (blocker,) = planned(text, host("cuda")).blockers
    assert "of which it may take 0.1" in blocker


def test_an_image_that_is_not_for_this_platform_is_a_blocker() -> None:
    (blocker,) = planned(CHAIN.replace("toy/serve", "toy/convert").replace("from: q4", "from: base"),
                         host(machine="riscv64")).blockers[-1:]  # fmt: skip
    assert "is for linux-x86_64, linux-aarch64, macos-arm64; here it would run on linux-riscv64" in blocker


def test_a_program_that_is_not_installed_is_a_blocker_and_an_installed_one_is_none() -> None:
    text = "name: p\nsteps: {s: {uses: toy/program}}\n"
    made = compiled(text)
    (blocker,) = plan(made, Snapshot(host=host())).blockers
    assert blocker == "s: needs the program ollama, which is not installed (install Ollama)"
    there = Snapshot(host=host(), images=frozenset({("program", "ollama")}))
    assert plan(made, there).blockers == ()


@pytest.mark.parametrize(
    ("like", "runtime", "seen"),
    [
        ("cpu", "native", "linux-x86_64"),
        ("apple", "native", "macos-arm64"),
        ("apple", "docker", "linux-aarch64"),
    ],
)
def test_a_container_sees_linux_whatever_the_host_is(like: str, runtime: str, seen: str) -> None:
    assert platform(host(like), runtime) == seen


def test_an_engine_that_cannot_make_our_images_is_said_in_the_plan() -> None:
    machine = host(docker="27.1", docker_lacks="its base image is not here and no registry can be reached")
    made = planned(CHAIN, machine, runtime="docker", runtimes=("native", "docker"))
    assert any("its base image is not here" in blocker for blocker in made.blockers)
    assert planned(CHAIN, machine, runtimes=("native", "docker")).blockers == ()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("memory: 900G", "chat: needs 900.0 GiB of memory; this machine has "),
        ("cpus: 100", "chat: needs 100 cpus; this machine has "),
    ],
)
def test_a_need_that_this_machine_can_never_meet_is_said_by_the_plan(asked: str, said: str) -> None:
    (blocker,) = planned(CHAIN.replace("from: q4}", f"from: q4, {asked}}}"), host(cpus=8)).blockers
    assert blocker.startswith(said)


def test_a_job_that_can_never_run_is_said_before_its_inputs_are_made() -> None:
    (blocker,) = planned(CHAIN.replace("type: Q4_K_M}", "type: Q4_K_M}, cpus: 9"), host(cpus=8)).blockers
    assert blocker == "q4: needs 9 cpus; this machine has 8"


def test_services_that_can_never_be_up_side_by_side_are_a_blocker() -> None:
    def both(cpus: int) -> tuple[str, ...]:
        text = CHAIN.replace("from: q4}", f"from: q4, cpus: {cpus}}}")
        return planned(text + f"  more: {{uses: toy/serve, from: q4, cpus: {cpus}}}\n", host(cpus=8)).blockers

    assert both(4) == ()
    assert both(5) == ("more: 5 cpus: 3 free, held by chat (5), for as long as that is up",)


def test_services_that_want_one_card_each_are_a_blocker_and_shares_of_it_are_none() -> None:
    card = Gpu(0, "GPU-a", "NVIDIA H100", 80 * GIB, None, (9, 0))

    def both(share: float) -> tuple[str, ...]:
        text = CHAIN.replace("from: q4}", f"from: q4, gpu_share: {share}}}")
        more = f"  more: {{uses: toy/serve, from: q4, gpu_share: {share}}}\n"
        return planned(text + more, host("cuda", gpus=(card,))).blockers

    assert both(0.5) == ()
    (blocker,) = both(1.0)
    assert blocker.startswith("more: 1 gpu: 0 free, gpu 0: held by chat")


def test_limits_of_services_count_together_as_they_are_leased() -> None:
    text = CHAIN.replace("from: q4}", "from: q4, memory: 5G}")
    machine = host(memory=8 * GIB)
    assert planned(text, machine).blockers == ()
    (blocker,) = planned(text + "  more: {uses: toy/serve, from: q4, memory: 5G}\n", machine).blockers
    assert blocker.startswith("chat, more together need about 10.0 GiB of memory")
