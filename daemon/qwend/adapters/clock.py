"""Time as the machine has it."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """`Clock` on the kernel's clocks.

    Timers run on the monotonic clock, which asyncio uses too: neither a wall clock that jumps by a day nor
    daylight saving makes one fire or hang. It stands still while the machine sleeps, so a laptop that wakes up
    finds its timers where it left them.
    """

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
