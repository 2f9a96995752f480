"""The engine's images as `qwend images` shows them."""

from __future__ import annotations

from typing import Any

from qwend.adapters.docker.build import DockerBuilder
from qwend.model.image import Image


class EngineImages:
    """`image_keeper.OciKeeper` over the builder."""

    def __init__(self, builder: DockerBuilder) -> None:
        self._builder = builder

    async def records(self) -> list[dict[str, Any]]:
        return [
            {
                "name": image.key.rsplit("-", 2)[0],
                "flavour": image.key.rsplit("-", 2)[1],
                "kind": "oci",
                "digest": image.digest,
                "key": image.key,
                "state": "ready",
                "location": image.tag or image.id,
                "size": image.size,
                "created": image.created,
            }
            for image in await self._builder.images()
        ]

    async def verify(self, image: Image) -> list[str]:
        return await self._builder.verify(image)

    async def remove(self, key: str) -> int:
        return await self._builder.remove(key)
