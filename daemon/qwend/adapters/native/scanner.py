"""Looks at all processes once for everybody who asks at the same moment."""

from __future__ import annotations

import asyncio

from qwend.adapters.native.processes import ProcessTable, look

_LONGEST_PAUSE_S = 0.25


class Scanner:
    """Many stops at once ask for the same table: who asks while a look is under way waits for the next one,
    together with all others who do, so that nobody sees a table older than the question.

    Between two looks as much time passes as the last one took: on a busy machine more askers share one.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._current: asyncio.Task[ProcessTable] | None = None
        self._next: asyncio.Task[ProcessTable] | None = None
        self._ended = self._took = 0.0

    async def look(self) -> ProcessTable:
        """A table of processes that is not older than this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._look_after(self._current), name="process table")
        return await asyncio.shield(self._next)

    async def _look_after(self, before: asyncio.Task[ProcessTable] | None) -> ProcessTable:
        if before is not None:
            await asyncio.wait([before])
        loop = asyncio.get_running_loop()
        pause = self._ended + min(self._took, _LONGEST_PAUSE_S) - loop.time()
        if pause > 0:
            await asyncio.sleep(pause)
        self._current, self._next = self._next, None
        begun = loop.time()
        try:
            return await asyncio.to_thread(look, self._instance)
        finally:
            self._ended = loop.time()
            self._took = self._ended - begun
