"""Lists, builds, checks and clears realised images, whatever they were realised as."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from qwend.adapters.venv.builder import VenvBuilder
from qwend.effects import Builder, Progress, Realised
from qwend.errors import QwendError, UsageError
from qwend.model.host import Host
from qwend.model.image import Image, ImageSpec, load_image
from qwend.model.image_file import FILE_NAME, read_image_file

_PACKAGE = "qwend_images"

Json = dict[str, Any]


class OciKeeper(Protocol):
    """The images of a container engine."""

    async def records(self) -> list[Json]:
        """Rows as `images ls` shows them, with `key` and `digest`."""
        ...

    async def verify(self, image: Image) -> list[str]: ...

    async def remove(self, key: str) -> int: ...


class Build(Protocol):
    """The reconciler's shared build."""

    async def __call__(self, runtime: str, image: Image) -> Realised: ...


class ImageKeeper:
    """`control.admin.ImageAdmin`. `oci` is there where an engine answers."""

    def __init__(self, venvs: VenvBuilder, builders: Mapping[str, Builder], host: Host) -> None:
        self._venvs = venvs
        self._builders = builders
        self._host = host
        self.oci: OciKeeper | None = None

    async def keys(self) -> set[tuple[str, str]]:
        found = {("venv", record.key) for record in await asyncio.to_thread(self._venvs.records)}
        if self.oci is not None:
            # An engine that is away has no images; what needs it says so itself.
            with contextlib.suppress(QwendError):
                found |= {("oci", row["key"]) for row in await self.oci.records()}
        return found

    async def rows(self) -> list[Json]:
        rows: list[Json] = [
            {
                "name": record.name,
                "flavour": record.flavour,
                "kind": "venv",
                "digest": record.digest,
                "key": record.key,
                "state": "ready",
                "location": str(self._venvs.root / record.key),
                "size": record.size,
                "created": record.created,
                "seconds": record.seconds,
                "packages": len(record.packages),
            }
            for record in await asyncio.to_thread(self._venvs.records)
        ]
        rows += [{"key": key, "kind": "venv", "state": "unfinished"} for key in self._venvs.unfinished()]
        if self.oci is not None:
            rows += await self.oci.records()
        return rows

    async def build(
        self, names: tuple[str, ...], flavour: str | None, runtime: str | None
    ) -> AsyncIterator[Json]:
        """Realises images by name; progress as it comes, then an `end`."""
        runtime = runtime if runtime not in {None, "auto"} else "native"
        builder = self._builders.get(runtime or "native")
        if builder is None:
            raise UsageError(
                f"the runtime {runtime} is not there", code="no-runtime", hint="qwend doctor says why"
            )
        specs = [self.spec(name, flavour) for name in names or self.names()]
        built = []
        for spec in specs:
            queue: asyncio.Queue[Progress] = asyncio.Queue()
            task = asyncio.create_task(builder.realise(spec, queue.put_nowait))
            while not (task.done() and queue.empty()):
                getter = asyncio.create_task(queue.get())
                await asyncio.wait({task, getter}, return_when=asyncio.FIRST_COMPLETED)
                if not getter.done():
                    getter.cancel()
                    continue
                progress = msgspec.structs.replace(getter.result(), subject=f"image {spec.name}")
                yield {"progress": msgspec.to_builtins(progress)}
            realised = task.result()
            built.append(
                {"name": spec.name, "key": spec.key, "kind": realised.kind, "seconds": realised.seconds}
            )
        yield {"end": {"built": built, "exit_code": 0}}

    async def verify(self, names: tuple[str, ...]) -> AsyncIterator[Json]:
        """Compares what is realised with its lock as it stands now."""
        found: list[Json] = []
        checked = 0
        for record in await asyncio.to_thread(self._venvs.records):
            if names and record.name not in names:
                continue
            yield {"progress": {"subject": f"image {record.name}", "phase": "verify", "message": record.key}}
            checked += 1
            found += [
                {"image": record.key, "difference": text}
                for text in await self._differences(
                    record.name, record.flavour, record.options, record.digest
                )
            ]
        yield {"end": {"checked": checked, "differences": found, "exit_code": 1 if found else 0}}

    async def prune(self, used: set[str], dry_run: bool) -> Json:
        removed, freed = [], 0
        for record in await asyncio.to_thread(self._venvs.records):
            if record.digest in used:
                continue
            removed.append({"key": record.key, "size": record.size})
            freed += record.size if dry_run else await self._venvs.remove(record.key)
        for key in self._venvs.unfinished():
            removed.append({"key": key, "size": 0})
            freed += 0 if dry_run else await self._venvs.remove(key)
        return {"removed": removed, "freed": freed, "dry_run": dry_run}

    def names(self) -> list[str]:
        """Our own images, by name."""
        found = importlib.util.find_spec(_PACKAGE)
        folders = found.submodule_search_locations if found else None
        return sorted(
            path.name
            for folder in folders or ()
            for path in Path(folder).iterdir()
            if (path / FILE_NAME).is_file()
        )

    def spec(self, name: str, flavour: str | None) -> ImageSpec:
        """An image of ours in a flavour, or in the best one for this machine."""
        if name not in self.names():
            raise UsageError(
                f"there is no image {name}", code="no-such-image", hint=f"there are {', '.join(self.names())}"
            )
        flavours = read_image_file(Path(load_folder(name))).flavours
        wanted = flavour or next((one for one in self._host.flavours() if one in flavours), None)
        if wanted is None:
            raise UsageError(f"image {name} has no flavour for this machine", code="no-flavour")
        return load_image(f"{_PACKAGE}:{name}", wanted)

    async def _differences(self, name: str, flavour: str, options: Any, digest: str) -> list[str]:
        try:
            spec = load_image(f"{_PACKAGE}:{name}", flavour, options)
        except UsageError as error:
            return [error.message]
        if spec.digest != digest:
            return [f"its lock changed since: built from {digest[:12]}, the lock is {spec.digest[:12]} now"]
        return await self._venvs.verify(spec)


def load_folder(name: str) -> str:
    """Where an image of ours lies."""
    found = importlib.util.find_spec(_PACKAGE)
    for folder in (found.submodule_search_locations if found else None) or ():
        if (Path(folder) / name / FILE_NAME).is_file():
            return str(Path(folder) / name)
    raise UsageError(f"there is no image {name}", code="no-such-image")
