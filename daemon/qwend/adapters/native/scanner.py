"""Looks at all processes once for everybody who asks at the same moment."""

from __future__ import annotations

import asyncio

from qwend.adapters.native.processes import ProcessTable, look


class Scanner:
    """Many stops at once ask for the same table: who asks while a look is under way waits for the next one,
    together with all others who do, so that nobody sees a table older than the question."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._current: asyncio.Task[ProcessTable] | None = None
        self._next: asyncio.Task[ProcessTable] | None = None

    async def look(self) -> ProcessTable:
        """A table of processes that is not older than this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._look_after(self._current), name="process table")
        return await asyncio.shield(self._next)

    async def _look_after(self, before: asyncio.Task[ProcessTable] | None) -> ProcessTable:
        if before is not None:
            await asyncio.wait([before])
        self._current, self._next = self._next, None
        return await asyncio.to_thread(look, self._instance)
