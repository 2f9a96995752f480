"""A reader of events as they come, that neither loses one nor holds more than a few in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

from qwend.model.event import Event

LIMIT = 256
"""So many events wait in memory for one reader; what is beyond it reads from the disk when it gets there."""

Read = Callable[[int, str | None, int], list[Event]]


class Feed:
    """One subscription. `tell` is called with what was committed, in order, in the reader's loop."""

    def __init__(self, read: Read, registry: set[Feed], after: int | None, recipe: str | None) -> None:
        self._read = read
        self._registry = registry
        self._recipe = recipe
        self._last = after if after is not None else -1
        self._behind = after is not None
        self._waiting: deque[Event] = deque()
        self._news = asyncio.Event()
        self._ended = False

    def tell(self, news: Iterable[tuple[Event, str | None]]) -> None:
        for event, recipe in news:
            if self._behind:
                break
            if self._recipe is not None and recipe != self._recipe:
                continue
            if len(self._waiting) >= LIMIT:
                self._behind = True
            elif self._last < 0 or event.seq > self._last:
                self._waiting.append(event)
        self._news.set()

    def end(self) -> None:
        """The reader gets what is there and then its end."""
        self._ended = True
        self._news.set()

    async def run(self) -> AsyncIterator[Event]:
        """The events. Those that wait in memory are all older than those still on the disk."""
        try:
            while True:
                while self._waiting:
                    event = self._waiting.popleft()
                    self._last = event.seq
                    yield event
                if self._behind and not self._ended:
                    async for event in self._catch_up():
                        yield event
                elif self._ended:
                    return
                else:
                    self._news.clear()
                    await self._news.wait()
        finally:
            self._registry.discard(self)

    async def _catch_up(self) -> AsyncIterator[Event]:
        while self._behind:
            # From here on `tell` keeps events again; those that the disk gives too are older than `_last` then.
            self._behind = False
            events = await asyncio.to_thread(self._read, self._last, self._recipe, LIMIT)
            self._behind = self._behind or len(events) == LIMIT
            for event in events:
                if event.seq > self._last:
                    self._last = event.seq
                    yield event
            while self._waiting and self._waiting[0].seq <= self._last:
                self._waiting.popleft()
            if self._behind:
                self._waiting.clear()
