"""Images as the engine has them, and somebody else's images, pinned by digest and pulled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from qwend.adapters.docker.connection import Connection, Refused
from qwend.effects import OnProgress, Progress, Realised
from qwend.errors import StepFailed, Unreachable
from qwend.model.image import UpstreamImage


async def find(connection: Connection, image: UpstreamImage) -> Realised | None:
    """The image if the engine has it under its digest."""
    inspected = await inspect_image(connection, image.pinned)
    return None if inspected is None else realised(image.name, image.digest, inspected)


async def pull(connection: Connection, image: UpstreamImage, progress: OnProgress) -> Realised:
    """Pulls the image. Raises Unreachable where its registry does not give it."""
    begun = time.monotonic()
    loop = asyncio.get_running_loop()

    def work(client: Any) -> None:
        for line in client.pull(image.reference, tag=image.manifest, stream=True, decode=True):
            if "error" in line:
                raise _refused(image, line["error"])
            detail = line.get("progressDetail") or {}
            message = f"{line.get('status', '')} {line.get('id', '')}".strip()
            event = Progress(
                f"image {image.name}",
                "pull",
                detail.get("current"),
                detail.get("total"),
                "B",
                message=message,
            )
            loop.call_soon_threadsafe(progress, event)

    try:
        await connection.call(work)
    except Refused as error:
        raise _refused(image, error.message) from None
    found = await find(connection, image)
    if found is None:
        raise StepFailed(f"{image.pinned} was pulled and is not there", code="image-gone")
    return msgspec.structs.replace(found, seconds=round(time.monotonic() - begun, 2))


async def inspect_image(connection: Connection, reference: str) -> dict[str, Any] | None:
    """What the engine knows of an image; None where it has none of that name."""
    try:
        found: dict[str, Any] = await connection.call(lambda client: client.inspect_image(reference))
    except Refused as error:
        if error.status == 404:
            return None
        raise
    return found


def realised(key: str, digest: str, inspected: Mapping[str, Any]) -> Realised:
    """An inspected image, as the reconciler knows it."""
    return Realised(key=key, kind="oci", location=inspected["Id"], digest=digest, size=inspected.get("Size"))


def _refused(image: UpstreamImage, why: str) -> Unreachable:
    return Unreachable(
        f"{image.pinned} cannot be pulled: {why}",
        code="no-image",
        hint="log in to its registry, or set a mirror in the engine's own configuration",
    )
