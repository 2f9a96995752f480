"""Realise an image as a locked environment below `$QWEND_HOME/images`.

    images/<key>/             the environment; `qwend-image.json` in it says that it is finished
    images/.locks/<key>       held while somebody builds it
    images/.work/<key>/       build environment, sources, build tree: kept when a build dies, then built on
    images/.sources/<sha256>/ source archives, shared by all images
    images/.logs/<key>.log    the last build's output

An environment is built in place (it is not relocatable) and its record is written last, so a build that was
killed is never taken for a finished one. The lock is inherited by the programs of a build: one that outlives
its daemon still holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import uv as uv_package

from qwend.adapters.holding import POLL_S, hold, try_hold
from qwend.adapters.package_environment import ca_bundle
from qwend.adapters.package_trouble import no_space
from qwend.adapters.pip_settings import IndexSettings, merged_settings
from qwend.adapters.venv.pythons import check_platform
from qwend.adapters.venv.record import Record, apparent_size, differences, read_record, write_record
from qwend.adapters.venv.steps import Construction
from qwend.effects import OnProgress, Progress, Realised
from qwend.errors import OutOfResource, QwendError, UsageError
from qwend.model.image import Image, ImageSpec, load_image

_SPARE = 1.1
"""Free space that must be there, as a factor of what the image is said to take."""


class VenvBuilder:
    """Realises, checks, lists and removes environments of one `$QWEND_HOME`."""

    def __init__(
        self,
        home: Path,
        settings: IndexSettings | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        jobs: int | None = None,
    ) -> None:
        """`settings` is `[images]` of qwend.toml; `jobs` how many compilers may run (default: all CPUs)."""
        # Programs in an environment name its path, so a link in the middle of it must not be part of it.
        self.root = (home / "images").resolve()
        self._own = settings or IndexSettings()
        self._environ = dict(os.environ if environ is None else environ)
        self._jobs = jobs or _usable_cpus()

    async def find(self, image: Image) -> Realised | None:
        """The environment if it is finished."""
        spec = _locked(image)
        record = read_record(self.root / spec.key)
        if record is None or record.digest != spec.digest:
            return None
        return _realised(self.root / spec.key, record, seconds=0.0)

    async def realise(self, image: Image, progress: OnProgress) -> Realised:
        """The finished environment, built if need be; whoever asks meanwhile waits for that build.

        Raises a QwendError that says which package, digest or address failed and what to set.
        """
        spec = _locked(image)
        check_platform(spec)
        if found := await self.find(spec):
            return found
        async with self._lock(spec.key, progress) as held:
            if found := await self.find(spec):
                return found
            try:
                return await self._build(spec, held, progress)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise QwendError(f"cannot build in {self.root}: {error}", code="build-failed") from error
                await asyncio.to_thread(self._remove, spec.key)
                raise no_space(self.root, needed=0) from error
            except OutOfResource as error:
                if error.code == "disk-full":  # what is half made helps nobody, and its space does
                    await asyncio.to_thread(self._remove, spec.key)
                raise

    async def verify(self, image: Image) -> list[str]:
        """How the environment differs from its lock, one sentence each; empty: not at all."""
        spec = _locked(image)
        return await asyncio.to_thread(differences, self.root / spec.key, spec)

    def records(self) -> list[Record]:
        """Every finished environment, by name."""
        if not self.root.is_dir():
            return []
        found = (read_record(path) for path in sorted(self.root.iterdir()) if not path.name.startswith("."))
        return [record for record in found if record is not None]

    def unfinished(self) -> list[str]:
        """Keys of environments and build folders that a killed build left behind."""
        names = {path.name for path in self.root.glob("*") if path.is_dir() and not path.name.startswith(".")}
        names |= {path.name for path in self.root.glob(".work/*") if path.is_dir()}
        return sorted(name for name in names if read_record(self.root / name) is None)

    async def remove(self, key: str) -> int:
        """Remove an environment and what its build left; the bytes that it took.

        The caller makes sure that nothing uses it. Refused while it is being built.
        """
        if "/" in key or key.startswith(".") or not key:
            raise UsageError(f'"{key}" is no key of an image')
        handle = try_hold(self._lock_path(key))
        if handle is None:
            raise QwendError(f"image {key} is being built", code="busy", hint="try again when it is done")
        try:
            return await asyncio.to_thread(self._remove, key)
        finally:
            os.close(handle)

    def _remove(self, key: str) -> int:
        freed = 0
        trash = self.root / ".trash"
        trash.mkdir(exist_ok=True)
        for path in (self.root / key, self.root / ".work" / key):
            if path.is_dir():
                freed += apparent_size(path)
                aside = trash / f"{key}-{time.time_ns()}"
                path.rename(aside)
                shutil.rmtree(aside)
        return freed

    async def _build(self, spec: ImageSpec, held: int, progress: OnProgress) -> Realised:
        begun = time.monotonic()
        _check_unchanged(spec)
        free = shutil.disk_usage(self.root).free
        if free < spec.disk_mb * 1e6 * _SPARE:
            raise no_space(self.root, int(spec.disk_mb * 1e6 * _SPARE))
        settings = await asyncio.to_thread(merged_settings, self._own, self._environ)
        settings = msgspec.structs.replace(settings, ca=ca_bundle(settings, self.root))
        construction = Construction(
            spec=spec,
            root=self.root,
            uv=_find_uv(),
            settings=settings,
            environ=self._environ,
            jobs=self._jobs,
            held=held,
            tell=_shared(progress, self.root / ".work" / f"{spec.key}.progress"),
        )
        record = await construction.run()
        prefix = self.root / spec.key
        record = msgspec.structs.replace(
            record,
            size=await asyncio.to_thread(apparent_size, prefix),
            seconds=round(time.monotonic() - begun, 2),
            created=time.time(),
        )
        await asyncio.to_thread(write_record, prefix, record)
        await asyncio.to_thread(construction.clean)
        return _realised(prefix, record, seconds=record.seconds)

    @contextlib.asynccontextmanager
    async def _lock(self, key: str, progress: OnProgress) -> AsyncIterator[int]:
        """Hold the build lock of `key`; while another builder has it, its progress is passed on."""
        shown = ""
        beside = self.root / ".work" / f"{key}.progress"

        def pass_on() -> None:
            nonlocal shown
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                text = beside.read_text("utf-8")
                if text != shown:
                    shown = text
                    progress(msgspec.json.decode(text, type=Progress))

        async with hold(self._lock_path(key), pass_on) as handle:
            try:
                yield handle
            finally:
                beside.unlink(missing_ok=True)

    def _lock_path(self, key: str) -> Path:
        for folder in (self.root, self.root / ".locks", self.root / ".work", self.root / ".logs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.root / ".locks" / key


def _find_uv() -> str:
    try:
        return os.fspath(uv_package.find_uv_bin())
    except FileNotFoundError:
        raise UsageError("uv's program is not installed", hint="pip install --force-reinstall uv") from None


def _usable_cpus() -> int:
    """CPUs that this process may use (a container's or taskset's share), where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _locked(image: Image) -> ImageSpec:
    if isinstance(image, ImageSpec):
        return image
    raise UsageError(
        f"{image.name} is not a locked image, so it has no environment",
        hint="an upstream image needs the docker runtime",
    )


def _check_unchanged(spec: ImageSpec) -> None:
    """The files of the image must be those that were planned: a lock changed since then is refused."""
    now = load_image(spec.folder, spec.flavour, spec.options)
    if now.digest != spec.digest:
        raise QwendError(
            f"the files in {spec.folder} changed since the plan: expected digest sha256:{spec.digest}, "
            f"got sha256:{now.digest}",
            code="lock-changed",
            hint="plan again",
        )


def _realised(prefix: Path, record: Record, seconds: float) -> Realised:
    return Realised(
        key=prefix.name,
        kind="venv",
        location=str(prefix),
        digest=record.digest,
        seconds=seconds,
        size=record.size,
    )


def _shared(progress: OnProgress, beside: Path) -> OnProgress:
    """`progress` that also leaves its last event in a file for those who wait (five times a second)."""
    last = 0.0

    def tell(event: Progress) -> None:
        nonlocal last
        progress(event)
        if (now := time.monotonic()) - last > POLL_S:
            last = now
            part = beside.with_suffix(".part")
            with contextlib.suppress(OSError):
                part.write_bytes(msgspec.json.encode(event))
                os.replace(part, beside)

    return tell
