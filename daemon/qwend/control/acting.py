"""Starting, stopping and restarting one step, as a stream of what happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from qwend.api.control import Json
from qwend.control.streams import until
from qwend.core.lifecycle import decide
from qwend.core.signals import Again, Go, Signal, Stop
from qwend.errors import UsageError
from qwend.model.service import Step
from qwend.reconciler.reconciler import Reconciler


async def act(
    reconciler: Reconciler, rows: Callable[[str | None], list[Json]], key: str, verb: str
) -> AsyncIterator[Json]:
    """Does it to the step `recipe/name`; `rows` gives its `ps` row for the end. Raises UsageError."""
    box = reconciler.find(key)
    signals: dict[str, Signal] = {"start": Go(), "stop": Stop("stopped by hand"), "restart": Again()}
    if verb not in signals:
        raise UsageError(f"a step can be started, stopped and restarted; {verb} is none of these")
    if box.row.kind == "job" and verb != "stop":
        raise UsageError(
            f"{key} is a job: it is not {verb}ed", hint=f"qwend up --force {box.row.step} runs it again"
        )

    async def perform() -> Step:
        if verb != "stop" and box.compiled.image is not None:
            await reconciler.realise(box.compiled.runtime, box.compiled.image)
        await box.post(signals[verb])
        return await box.until(lambda row: row.settled)

    if decide(box.row, box.compiled.policy, signals[verb]) == (box.row, ()):
        yield {"notice": f"{key}: {box.row.state} already, there is nothing to {verb}"}
    async with reconciler.world.hub.follow() as news:
        task = asyncio.create_task(perform())
        image = f"image {box.compiled.image.name}" if box.compiled.image is not None else key
        async for item in until(
            task, news, lambda event: event.subject == key, lambda subject: subject in (key, image)
        ):
            yield item
        row = task.result()
    failed = verb != "stop" and row.state == "failed"
    steps = [one for one in rows(row.recipe) if one["step"] == row.step]
    yield {"end": {"state": row.state, "reason": row.reason, "exit_code": 1 if failed else 0, "steps": steps}}
