"""Whether this engine can make our images: it needs buildx, and a base image from somewhere."""

from __future__ import annotations

import asyncio
import contextlib
import shutil

from qwend.adapters.docker import context
from qwend.adapters.docker.connection import Connection
from qwend.adapters.docker.construction import Base
from qwend.adapters.docker.upstream import inspect_image

_ANSWERS_WITHIN_S = 3.0
_HUB = "registry-1.docker.io"


async def lacking(connection: Connection, base: Base) -> str | None:
    """Why images cannot be built here, in words that follow "Docker answers, but"; None if they can.

    A base that the user named is the user's word. The default one is looked for in the engine, then its registry
    is asked for a connection, and no more than that.
    """
    if not await _has_buildx():
        return "it has no buildx"
    if (await connection.engine()).podman:
        return "Podman has no BuildKit, which makes images"
    if base.reference is not None:
        return None
    if await inspect_image(connection, context.BASE) is not None:
        return None
    return None if await _reachable(_HUB) else "its base image is not here and no registry can be reached"


async def _has_buildx() -> bool:
    program = shutil.which("docker")
    if program is None:
        return False
    process = await asyncio.create_subprocess_exec(
        program,
        "buildx",
        "version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await process.wait() == 0


async def _reachable(host: str) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, 443), _ANSWERS_WITHIN_S)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
