"""The images of one run: each is built once, beside whatever the run does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qwend.core.signals import Lacking
from qwend.effects import Realised
from qwend.errors import QwendError, StepFailed
from qwend.model.image import Image
from qwend.model.plan import CompiledStep
from qwend.reconciler.builds import build_key

if TYPE_CHECKING:
    from qwend.reconciler.mailbox import Mailbox
    from qwend.reconciler.reconciler import Reconciler


class Images:
    """What the steps of a run wait for before they start."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._tasks: dict[str, asyncio.Task[Realised]] = {}

    def of(self, step: CompiledStep) -> asyncio.Task[Realised]:
        """The step's image; its build begins with the first who asks."""
        image = step.image
        if image is None:
            raise StepFailed(f"{step.name}: {step.engine} names no image")
        key = build_key(step.runtime, image)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._build(step.runtime, image))
        return self._tasks[key]

    async def equip(self, box: Mailbox, step: CompiledStep, producers: Mapping[str, str], run: str) -> None:
        """Waits for the step's image. Where it cannot be had, a step that does not run has failed; one that runs
        goes on as it was. Raises QwendError."""
        try:
            await self.of(step)
        except QwendError as error:
            if box.row.state == "pending" or (box.row.settled and not box.row.alive):
                await box.adopt(step, producers, run)
                await box.post(Lacking(error.message, error.code))
            raise

    async def cancel(self) -> None:
        """Waits for the builds no more; they go on for whoever else does."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _build(self, runtime: str, image: Image) -> Realised:
        try:
            return await self._reconciler.realise(runtime, image)
        except QwendError as error:
            raise type(error)(
                f"image {image.name}: {error.message}", code=error.code, hint=error.hint
            ) from None
