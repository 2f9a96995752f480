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
from qwend.model.plan import Compiled

About = Callable[[str], bool]


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


def concerning(compiled: Compiled, run: str | None = None) -> tuple[Callable[[Event], bool], About]:
    """What events and what progress are news of a recipe (and a run of it): its steps, its images, and no others."""
    recipe = compiled.recipe
    images = {step.image.name for step in compiled.steps if step.image is not None}

    def ours(event: Event) -> bool:
        if event.kind.startswith("image."):
            return event.subject in images
        return (run is not None and event.run == run) or event.subject.startswith(f"{recipe}/")

    def about(subject: str) -> bool:
        image = subject.removeprefix("image ")
        return image in images if image != subject else subject.startswith(f"{recipe}/")

    return ours, about


async def until(
    task: asyncio.Task[Any],
    news: asyncio.Queue[Event | Progress],
    ours: Callable[[Event], bool],
    about: About,
) -> AsyncIterator[Json]:
    """Events that are `ours`, and progress of subjects that it is `about`, until the task is done."""
    async for item in drain(task, news):
        if isinstance(item, Progress):
            if about(item.subject):
                yield {"progress": msgspec.to_builtins(item)}
        elif ours(item):
            event = msgspec.to_builtins(item)
            if item.kind == "recipe.planned":
                event.pop("row", None)  # the whole compiled recipe: the client has seen the plan
            yield {"event": event}
