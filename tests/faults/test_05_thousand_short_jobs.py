"""Fault 5: 1,000 short jobs in a row."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.adapters.native.kit import a_folder, a_supervisor, marker, request

from qwend.adapters.native.supervisor import NativeSupervisor

pytestmark = pytest.mark.native

JOBS = 1000
WARM = 200
"""After so many everything that is cached is in its cache."""

NOISE = 4 << 20


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def least(native: NativeSupervisor, measure: Callable[[int], int], pid: int) -> int:
    """The least of a few looks: the connection of a call just answered may not be closed quite yet."""
    looks = []
    for _ in range(5):
        await native.processes()
        looks.append(measure(pid))
    return min(looks)


async def run(native: NativeSupervisor, folder: Path, numbers: range) -> list[tuple[str, int | None]]:
    """Runs jobs, a few at a time, and acknowledges their exits; returns what the exits said."""
    wanted = {marker(f"job{n}") for n in numbers}
    told: list[tuple[str, int | None]] = []
    few = asyncio.Semaphore(8)

    async def start(n: int) -> None:
        async with few:
            await native.spawn(
                request(folder, "sh", "-c", f"exit {n % 7}", step=f"job{n}", log=folder / "log")
            )

    async def listen() -> None:
        async for record in native.exits():
            if record.marker in wanted:
                told.append((record.marker, record.code))
                await native.acknowledge(record)
            if len(told) == len(wanted):
                return

    await asyncio.gather(listen(), *map(start, numbers))
    return told


async def test_05_no_zombie_no_descriptor_and_no_memory_is_left() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        pid, own = (await native.ensure()).pid, os.getpid()
        told = await run(native, folder, range(WARM))
        before = [
            await least(native, measure, of) for measure in (descriptors, resident) for of in (pid, own)
        ]
        told += await run(native, folder, range(WARM, JOBS))
        after = [await least(native, measure, of) for measure in (descriptors, resident) for of in (pid, own)]

        assert sorted(told) == sorted((marker(f"job{n}"), n % 7) for n in range(JOBS)), "each ended once"
        assert children(pid) == [], "a zombie would be among them"
        assert all(now <= then for now, then in zip(after[:2], before[:2], strict=True)), "descriptors"
        assert after[2] - before[2] < NOISE, "memory of supervisord"
        assert after[3] - before[3] < NOISE, "memory of the daemon's side"
        assert native.places.journal.stat().st_size < 256 * 1024
        assert await native.processes() == ()
