"""The engine's images as `qwend images` shows them."""

from __future__ import annotations

import json
from typing import Any

from qwend.adapters import own_images
from qwend.adapters.docker.build import DockerBuilder
from qwend.adapters.docker.context import LABEL
from qwend.adapters.docker.listing import OciImage
from qwend.errors import UsageError
from qwend.model.image import Image


class EngineImages:
    """`image_keeper.OciKeeper` over the builder."""

    def __init__(self, builder: DockerBuilder) -> None:
        self._builder = builder

    async def keys(self) -> set[str]:
        return {image.key for image in await self._builder.images() if self._state(image) == "ready"}

    async def records(self) -> list[dict[str, Any]]:
        return [
            {
                "name": image.name,
                "flavour": image.flavour,
                "kind": "oci",
                "digest": image.digest,
                "key": image.key,
                "state": self._state(image),
                "location": image.reference,
                "size": image.size,
                "created": image.created,
                "options": _options(image),
                "in_use": image.in_use,
            }
            for image in await self._builder.images()
        ]

    async def verify(self, image: Image) -> list[str]:
        return await self._builder.verify(image)

    async def remove(self, reference: str) -> int:
        return await self._builder.remove(reference)

    def _state(self, image: OciImage) -> str:
        """`ready`; `outdated` where a build now would make another; `superseded` where one has taken its tag."""
        if not image.tag:
            return "superseded"
        if image.name not in own_images.folders():
            return "ready"
        try:
            now = own_images.load(image.name, image.flavour, _options(image))
        except UsageError:
            return "outdated"
        return "ready" if self._builder.made_so(now, image) else "outdated"


def _options(image: OciImage) -> dict[str, Any]:
    """The build options that it was made with."""
    try:
        found = json.loads(image.labels.get(LABEL + "options") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
