"""The native runtime's images: locked environments, and programs that the user installed."""

from __future__ import annotations

import shutil

from qwend.adapters.venv.builder import VenvBuilder
from qwend.effects import OnProgress, Realised
from qwend.errors import UsageError
from qwend.model.image import HostProgram, Image, UpstreamImage


class NativeBuilder:
    """`effects.Builder`: builds what has a lock, looks for what is a program."""

    def __init__(self, venvs: VenvBuilder) -> None:
        self._venvs = venvs

    async def find(self, image: Image) -> Realised | None:
        if isinstance(image, HostProgram):
            path = shutil.which(image.program)
            return Realised(image.name, "program", path, image.digest) if path else None
        if isinstance(image, UpstreamImage):
            return None
        return await self._venvs.find(image)

    async def realise(self, image: Image, progress: OnProgress) -> Realised:
        """Raises UsageError for a program that is not installed, and for a container image."""
        if isinstance(image, UpstreamImage):
            raise UsageError(
                f"{image.name} is a container image", code="no-runtime", hint="it needs runtime: docker"
            )
        if isinstance(image, HostProgram):
            found = await self.find(image)
            if found is None:
                raise UsageError(
                    f"{image.program} is not on PATH", code="no-program", hint=image.install_hint
                )
            return found
        return await self._venvs.realise(image, progress)
