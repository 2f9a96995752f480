"""Builds of images under way: shared by whoever asks meanwhile, and ended when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Container
from dataclasses import dataclass

import msgspec

from qwend.effects import Progress, Realised
from qwend.errors import QwendError
from qwend.model.event import Event
from qwend.model.image import Image
from qwend.reconciler.world import World


def build_key(runtime: str, image: Image) -> str:
    """What two steps share that run in the same image of the same runtime."""
    return f"{runtime} {image.digest}"


@dataclass
class _Build:
    name: str
    task: asyncio.Task[Realised]
    waiting: int = 0


class Builds:
    """Who waits for which build."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: dict[str, _Build] = {}

    async def realise(self, runtime: str, image: Image) -> Realised:
        """The realised image; whoever asks meanwhile shares the build."""
        key = build_key(runtime, image)
        build = self._under_way.get(key)
        if build is None:
            task = asyncio.create_task(self._build(runtime, image))
            build = self._under_way[key] = _Build(image.name, task)
            task.add_done_callback(lambda _: self._forget(key, task))
        build.waiting += 1
        try:
            return await asyncio.shield(build.task)
        finally:
            build.waiting -= 1

    async def abandon(self, wanted: Container[str] = ()) -> list[str]:
        """Ends the builds that nobody waits for and that are not among `wanted`; the names of their images."""
        left = {
            key: build
            for key, build in self._under_way.items()
            if not build.waiting and key not in wanted and not build.task.done()
        }
        for key, build in left.items():
            del self._under_way[key]  # who asks from here on begins anew
            build.task.cancel()
        await asyncio.gather(*(build.task for build in left.values()), return_exceptions=True)
        for build in left.values():
            reason = "nobody waits for it any more; what it fetched is kept"
            with contextlib.suppress(QwendError):  # a full disk hinders no stop
                await self._world.record(Event("image.cancelled", build.name, reason=reason))
        return [build.name for build in left.values()]

    def going_on(self, keys: Container[str]) -> list[str]:
        """The names of those among `keys` that are built on."""
        return [build.name for key, build in self._under_way.items() if key in keys and not build.task.done()]

    def close(self) -> None:
        """The daemon goes."""
        for build in self._under_way.values():
            build.task.cancel()

    def _forget(self, key: str, task: asyncio.Task[Realised]) -> None:
        if not task.cancelled():
            task.exception()  # who waited was told
        build = self._under_way.get(key)
        if build is not None and build.task is task:
            del self._under_way[key]

    async def _build(self, runtime: str, image: Image) -> Realised:
        builder = self._world.builders[runtime]
        found = await builder.find(image)
        if found is not None:
            return found
        subject = f"image {image.name}"
        await self._world.record(
            Event("image.building", image.name, data={"digest": image.digest, "runtime": runtime})
        )

        def tell(progress: Progress) -> None:
            self._world.hub.tell(msgspec.structs.replace(progress, subject=subject))

        realised = await builder.realise(image, tell)
        data = {"digest": image.digest, "runtime": runtime, "seconds": realised.seconds}
        await self._world.record(Event("image.built", image.name, data=data))
        return realised
