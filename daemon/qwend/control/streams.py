"""What happens while something is done, as a stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from qwend.api.control import Json
from qwend.effects import Progress
from qwend.model.event import Event


async def drain(task: asyncio.Task[Any], queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    """What the queue brings until the task is done and the queue empty."""
    while not (task.done() and queue.empty()):
        getter = asyncio.create_task(queue.get())
        await asyncio.wait({task, getter}, return_when=asyncio.FIRST_COMPLETED)
        if getter.done():
            yield getter.result()
        else:
            getter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await getter


async def until(
    task: asyncio.Task[Any],
    news: asyncio.Queue[Event | Progress],
    ours: Callable[[Event], bool],
    prefix: str = "",
) -> AsyncIterator[Json]:
    async for item in drain(task, news):
        if isinstance(item, Progress):
            if not prefix or item.subject.startswith((prefix, "image ")):
                yield {"progress": msgspec.to_builtins(item)}
        elif ours(item):
            event = msgspec.to_builtins(item)
            if item.kind == "recipe.planned":
                event.pop("row", None)  # the whole compiled recipe: the client has seen the plan
            yield {"event": event}
