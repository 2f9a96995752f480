"""What cannot be had now is waited for, with a reason that everybody sees; what others hold counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.faults.another_proc import instead_of
from tests.faults.house import House, a_house, make, serve

pytestmark = pytest.mark.native
GIB = 1 << 30


def test_who_waits_for_cpus_says_who_holds_them_wherever_it_is_shown(house: House, name: str) -> None:
    cpus = house.client.get("/v1/doctor")["host"]["cpus"]
    assert house.up(name, {"chat": serve(cpus=cpus - 0.5)})["exit_code"] == 0
    going = house.begin(f"{name}b", {"train": make(cpus=1, text=name)})
    row = house.until(f"{name}b/train", "waiting", where=lambda row: row["reason"])
    reason = f"waiting for 1 cpus: 0.5 free, held by {name}/chat ({cpus - 0.5:g})"
    assert row["reason"] == reason
    shown = house.cli("ps", "-p", f"{name}b")
    assert shown.returncode == 0 and reason in shown.stdout
    told = [event["reason"] for event in house.events(f"{name}b") if event["kind"] == "job.changed"]
    assert reason in told
    house.down(name)
    assert going.result()[-1]["end"]["exit_code"] == 0, "it went on as soon as they were free"


def test_heavy_steps_take_turns_and_the_waiting_one_names_the_other(house: House, name: str) -> None:
    house.begin(name, {"train": make(seconds=3600, heavy=True)})
    house.until(f"{name}/train", "running", where=lambda row: row["pid"])
    going = house.begin(f"{name}b", {"quant": make(heavy=True, text=name)})
    row = house.until(f"{name}b/quant", "waiting", where=lambda row: row["reason"])
    assert row["reason"] == f"waiting for its turn among heavy steps: {name}/train runs"
    house.down(name)
    assert going.result()[-1]["end"]["exit_code"] == 0


def test_memory_that_another_user_s_daemon_holds_counts(house: House) -> None:
    """The kernel tells what is available, whoever holds the rest; here a file tells it in the kernel's place."""
    meminfo = house.folder / "meminfo"

    def available(gib: int) -> None:
        meminfo.write_text(f"MemTotal:       {8 << 20} kB\nMemAvailable:   {gib << 20:>8} kB\n")

    available(2)
    own = House()
    try:
        own.start(*instead_of("/proc/meminfo", meminfo))
        going = own.begin("r", {"chat": serve(memory="3G")})
        row = own.until("r/chat", "waiting", where=lambda row: row["reason"])
        assert row["reason"] == "waiting for 3.0 GiB of memory: 2.0 GiB free, other programs hold the rest"
        assert row["generation"] == 0, "it was not started into it"
        available(4)
        assert going.result()[-1]["end"]["exit_code"] == 0
        assert own.row("r/chat")["state"] == "ready"
    finally:
        own.close()


def test_two_daemons_that_lease_from_one_range_give_no_port_twice() -> None:
    with a_house() as one:
        other = House()
        (other.home / "qwend.toml").write_text(f'{one.ports.toml}runtime = "native"\n')
        try:
            other.start()
            steps = {f"s{n}": serve() for n in range(8)}
            with ThreadPoolExecutor(2) as both:
                ends = list(both.map(lambda own: own.up("r", steps), (one, other)))
            assert [end["exit_code"] for end in ends] == [0, 0]
            ports = [row["port"] for own in (one, other) for row in own.rows("r")]
            assert len(set(ports)) == 2 * len(steps)
            assert all(row["state"] == "ready" for own in (one, other) for row in own.rows("r"))
        finally:
            other.close()
