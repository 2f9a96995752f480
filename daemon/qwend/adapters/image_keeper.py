"""Lists, builds, checks and clears realised images, whatever they were realised as."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec

from qwend.adapters import own_images
from qwend.adapters.venv.builder import VenvBuilder
from qwend.adapters.venv.record import Record
from qwend.effects import Builder, Progress, Realised
from qwend.errors import QwendError, UsageError
from qwend.model.host import Host
from qwend.model.image import Image, ImageSpec

Json = dict[str, Any]

_WHOLE = ("ready", "outdated")


class OciKeeper(Protocol):
    """The images of a container engine."""

    async def keys(self) -> set[str]:
        """Keys of those that a step would be given as they are."""
        ...

    async def records(self) -> list[Json]:
        """Rows as `images ls` shows them; with `options`, and `in_use` while a container needs the image."""
        ...

    async def verify(self, image: Image) -> list[str]: ...

    async def remove(self, reference: str) -> int:
        """By a row's `location`; the bytes that are free now."""
        ...


class ImageKeeper:
    """`control.admin.ImageAdmin`. `oci` is there where an engine answers; `runtime` is the configured one."""

    def __init__(
        self, venvs: VenvBuilder, builders: Mapping[str, Builder], host: Host, runtime: str | None = None
    ) -> None:
        self._venvs = venvs
        self._builders = builders
        self._host = host
        self._runtime = runtime
        self.oci: OciKeeper | None = None

    async def keys(self) -> set[tuple[str, str]]:
        found = {("venv", record.key) for record in await asyncio.to_thread(self._venvs.records)}
        if self.oci is not None:
            # An engine that is away has no images; what needs it says so itself.
            with contextlib.suppress(QwendError):
                found |= {("oci", key) for key in await self.oci.keys()}
        return found

    async def rows(self) -> list[Json]:
        """What is realised here, and what a killed build left; by name."""
        rows = [self._row(record) for record in await asyncio.to_thread(self._venvs.records)]
        rows += [_unfinished(key) for key in self._venvs.unfinished()]
        if self.oci is not None:
            with contextlib.suppress(QwendError):
                rows += await self.oci.records()
        return sorted(rows, key=lambda row: (row["name"], row["flavour"], row["key"], row["kind"]))

    async def build(
        self, names: tuple[str, ...], flavour: str | None, runtime: str | None
    ) -> AsyncIterator[Json]:
        """Realises images by name; progress as it comes, then an `end`. One that fails does not keep the others
        from being built."""
        specs = [self._spec(name, flavour, runtime) for name in names or own_images.folders()]
        built: list[Json] = []
        failed: list[Json] = []
        for where, spec in specs:
            queue: asyncio.Queue[Progress | None] = asyncio.Queue()
            task = asyncio.create_task(self._realise(where, spec, queue))
            try:
                while (news := await queue.get()) is not None:
                    news = msgspec.structs.replace(news, subject=f"image {spec.name}")
                    yield {"progress": msgspec.to_builtins(news)}
                done = await task
            except QwendError as error:
                if len(specs) == 1:
                    raise
                failed.append({"name": spec.name, "key": spec.key, "error": error.to_dict()})
                continue
            finally:
                task.cancel()  # who asked has left: the build is theirs alone
            made = {"name": spec.name, "flavour": spec.flavour, "key": spec.key, "kind": done.kind}
            built.append({**made, "location": _shown(spec, done), "seconds": done.seconds, "size": done.size})
        yield {"end": {"built": built, "failed": failed, "exit_code": 1 if failed else 0}}

    async def verify(self, names: tuple[str, ...]) -> AsyncIterator[Json]:
        """Compares what is realised with its lock as it stands now."""
        own_images.check(names)
        own = own_images.folders()  # where a plugin of somebody else's has its folders is not known here
        rows = [
            row
            for row in await self.rows()
            if row["state"] in _WHOLE and row["name"] in own and (not names or row["name"] in names)
        ]
        there = {row["name"] for row in rows}
        for name in names:
            if name not in there:
                raise UsageError(
                    f"image {name} is not realised here", code="no-image", hint=f"qwend images build {name}"
                )
        found: list[Json] = []
        for row in rows:
            yield {
                "progress": {"subject": f"image {row['name']}", "phase": "verify", "message": row["location"]}
            }
            found += [
                {"image": row["key"], "kind": row["kind"], "difference": text}
                for text in await self._differences(row)
            ]
        yield {"end": {"checked": len(rows), "differences": found, "exit_code": 1 if found else 0}}

    async def prune(self, used: set[str], dry_run: bool) -> Json:
        """Removes what no recipe uses: images whose digest is not among `used`, and what other builds left."""
        removed, freed = [], 0
        for row in await self.rows():
            if row.get("in_use") or (row["state"] in _WHOLE and row["digest"] in used):
                continue
            size = row["size"] or 0
            if not dry_run:
                remove = self.oci.remove if self.oci and row["kind"] == "oci" else self._venvs.remove
                try:
                    size = await remove(row["location"] if row["kind"] == "oci" else row["key"])
                except QwendError as error:
                    if error.code != "busy":
                        raise
                    continue  # somebody began to use it, or builds it
            removed.append({"key": row["key"], "kind": row["kind"], "size": size})
            freed += size
        return {"removed": removed, "freed": freed, "dry_run": dry_run}

    def _row(self, record: Record) -> Json:
        return {
            "name": record.name,
            "flavour": record.flavour,
            "kind": "venv",
            "digest": record.digest,
            "key": record.key,
            "state": state(record.name, record.flavour, record.options, record.digest),
            "location": str(self._venvs.root / record.key),
            "size": record.size,
            "created": record.created,
            "options": record.options,
            "packages": len(record.packages),
            "seconds": record.seconds,
        }

    def _spec(self, name: str, flavour: str | None, runtime: str | None) -> tuple[str, ImageSpec]:
        """The runtime to realise an image for, and the image in a flavour or in the best one for this machine."""
        asked = runtime if runtime not in {None, "auto"} else self._runtime
        if asked is not None and asked not in self._builders:
            raise UsageError(
                f"the runtime {asked} does not answer here", code="no-runtime", hint="qwend doctor says why"
            )
        have = own_images.flavours(name)
        fitting = [one for one in self._host.flavours() if one in have]
        if asked == "docker":
            fitting = [one for one in fitting if one != "apple"]
        chosen = flavour or next(iter(fitting), None)
        if chosen is None:
            raise UsageError(
                f"image {name} has no flavour for this machine",
                code="no-flavour",
                hint=f"--flavour takes {', '.join(have)}",
            )
        return asked or self._auto(chosen), own_images.load(name, chosen)

    def _auto(self, flavour: str) -> str:
        """The runtime that `up` takes for a flavour where nobody says which (`core.placement.runtime`)."""
        if flavour == "apple" or "docker" not in self._builders:
            return "native"
        return "native" if flavour.startswith("cuda") and not self._host.docker_gpus else "docker"

    async def _realise(self, runtime: str, spec: ImageSpec, news: asyncio.Queue[Progress | None]) -> Realised:
        try:
            return await self._builders[runtime].realise(spec, news.put_nowait)
        finally:
            news.put_nowait(None)

    async def _differences(self, row: Json) -> list[str]:
        try:
            spec = own_images.load(row["name"], row["flavour"], row["options"])
        except UsageError as error:
            return [error.message]
        if spec.digest != row["digest"]:
            return [
                f"its folder changed since: it was built from {row['digest'][:12]}, which is {spec.digest[:12]} now"
            ]
        if row["kind"] == "oci":
            return await self.oci.verify(spec) if self.oci else []
        return await self._venvs.verify(spec)


def state(name: str, flavour: str, options: Mapping[str, Any], digest: str) -> str:
    """`ready`, or `outdated` where the image's folder is another now. A stranger's image counts as it is."""
    if name not in own_images.folders():
        return "ready"
    try:
        now = own_images.load(name, flavour, options).digest
    except UsageError:
        return "outdated"
    return "ready" if now == digest else "outdated"


def _unfinished(key: str) -> Json:
    name, flavour, digest = (*key.rsplit("-", 2), "", "")[:3]
    return {
        "name": name, "flavour": flavour, "kind": "venv", "digest": digest, "key": key, "state": "unfinished",
        "location": None, "size": None, "created": None, "options": {},
    }  # fmt: skip


def _shown(spec: ImageSpec, done: Realised) -> str:
    """What a user calls it by: a folder, or a container image's tag."""
    return spec.container if done.kind == "oci" else done.location
