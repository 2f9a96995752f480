"""Fault 25: an engine writes 1 GB of log a minute."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.adapters.native.kit import Bell, a_folder, a_supervisor, exit_of, marker, python, request

pytestmark = pytest.mark.native

RATE = 17 << 20
SECONDS = 5
BOUND = 4 << 20

FLOOD = """
import os, time
line, count, begin = b"x" * 91, 0, time.monotonic()
while count * 100 < {total}:
    os.write(1, b"".join(b"%08d%b\\n" % (n, line) for n in range(count, count + 1000)))
    count += 1000
    time.sleep(max(0.0, begin + count * 100 / {rate} - time.monotonic()))
{last}
"""


def flood(last: str) -> str:
    return FLOOD.format(total=RATE * SECONDS, rate=RATE, last=last)


def check(log: Path) -> int:
    """The log holds whole lines in order, up to the newest; returns how many bytes it has."""
    text = log.read_bytes()
    numbers = [int(line[:8]) for line in text.splitlines()]
    assert {len(line) for line in text.splitlines()} == {99}
    assert numbers == sorted(set(numbers))
    assert numbers[-1] + 1 == -(-RATE * SECONDS // 100_000) * 1000, "the newest line is there"
    return len(text)


async def test_25_the_log_is_bounded_and_the_engine_never_blocked() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        log = folder / "step.log"
        await native.spawn(request(folder, *python(flood("")), log_max_bytes=BOUND))
        ended = asyncio.create_task(exit_of(native, marker()))
        largest = 0
        while not ended.done():
            await asyncio.wait([ended], timeout=0.05)
            largest = max(largest, log.stat().st_size)
        assert (await ended).code == 0
        # What comes in between two looks, a second apart and late on a busy machine, is on top.
        assert largest < BOUND + 3 * RATE
        assert check(log) <= BOUND + RATE


async def test_25_what_outlives_the_main_process_is_bounded_too() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        bell = Bell(folder)
        last = f"time.sleep(2.5); open({str(bell.path)!r}, 'w').close()"
        code = f"import os\nif os.fork(): os._exit(0)\nos.setsid()\n{flood(last)}"
        await native.spawn(request(folder, *python(code), log_max_bytes=BOUND))
        assert (await exit_of(native, marker())).code == 0
        await bell.heard()
        assert check(folder / "step.log") <= BOUND
