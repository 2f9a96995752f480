"""The `oci` realisation of images: built through BuildKit, found again by tag and labels."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qwend.adapters.docker import context, upstream
from qwend.adapters.docker.buildx import Trail, client_environment, run_buildx
from qwend.adapters.docker.connection import Connection, Refused
from qwend.adapters.docker.construction import LABEL as CONSTRUCTION
from qwend.adapters.docker.construction import Base, base_of, construction_of, made_so
from qwend.adapters.docker.identity import short
from qwend.adapters.docker.listing import OciImage, listing
from qwend.adapters.docker.mounts import default_secrets_root
from qwend.adapters.docker.trouble import build_trouble
from qwend.adapters.docker.upstream import inspect_image, realised
from qwend.adapters.docker.verify import differences
from qwend.adapters.holding import hold
from qwend.adapters.package_environment import ca_bundle
from qwend.adapters.pip_settings import IndexSettings, merged_settings
from qwend.effects import OnProgress, Realised
from qwend.errors import QwendError, StepFailed, UsageError
from qwend.model.image import HostProgram, Image, ImageSpec, UpstreamImage, load_image


class DockerBuilder:
    """Implements `effects.Builder`; checks, lists and removes images as well."""

    def __init__(
        self,
        home: Path,
        connection: Connection,
        settings: IndexSettings | None = None,
        base: Base | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        secrets_root: Path | None = None,
    ) -> None:
        """`home` is $QWEND_HOME; `settings` and `base` are `[images]` of qwend.toml."""
        self.root = home.absolute() / "images" / ".oci"
        self._connection = connection
        self._own = settings or IndexSettings()
        self._base = base or Base()
        self._environ = dict(os.environ if environ is None else environ)
        self._private = secrets_root or default_secrets_root("builds")

    async def find(self, image: Image) -> Realised | None:
        """The image if the engine has it, made as it would be made now. QwendError where something else goes by
        its name."""
        if isinstance(image, UpstreamImage):
            return await upstream.find(self._connection, image)
        spec = _locked(image)
        inspected = await inspect_image(self._connection, spec.container)
        if inspected is None:
            return None
        _check_labels(spec, inspected)
        if not made_so(spec, self._base, _labels(inspected)):
            return None
        return realised(spec.key, spec.digest, inspected)

    async def realise(self, image: Image, progress: OnProgress) -> Realised:
        """The image, built or pulled if need be; whoever asks meanwhile waits for that."""
        if found := await self.find(image):
            return found
        name = image.key if isinstance(image, ImageSpec) else image.name
        async with self._lock(name, progress) as held:
            if found := await self.find(image):
                return found
            if isinstance(image, UpstreamImage):
                return await upstream.pull(self._connection, image, progress)
            return await self._build(_locked(image), held, progress)

    async def verify(self, image: Image) -> list[str]:
        """How the image differs from its lock, one sentence each; empty: not at all. Runs a container of it
        without network; takes about 1 s for each GB."""
        spec = _locked(image)
        inspected = await inspect_image(self._connection, spec.container)
        if inspected is None:
            return [f"{spec.container} is not built"]
        try:
            _check_labels(spec, inspected)
        except QwendError as error:
            return [error.message]
        return await differences(self._connection, inspected["Id"], spec)

    async def images(self) -> list[OciImage]:
        """Every image that qwend built, by key; one that another build took the tag from comes after it."""
        return await listing(self._connection)

    def made_so(self, spec: ImageSpec, image: OciImage) -> bool:
        """Whether a listed image is what `spec` would be realised as now."""
        return image.digest == spec.digest and made_so(spec, self._base, image.labels)

    async def remove(self, reference: str) -> int:
        """Removes one of our images by its tag or id; the bytes that it took. Refused while a container uses it."""
        found = next((image for image in await self.images() if reference in {image.tag, image.id}), None)
        if found is None:
            raise UsageError(f"the engine has no image {reference}", hint="`qwend images ls` lists them")
        try:
            await self._connection.call(functools.partial(_remove, reference))
        except Refused as error:
            raise QwendError(f"image {found.key} is in use: {error.message}", code="busy") from None
        return found.size

    # --- building -----------------------------------------------------------------------------------------

    async def _build(self, spec: ImageSpec, held: int, progress: OnProgress) -> Realised:
        begun = time.monotonic()
        now = load_image(spec.folder, spec.flavour, spec.options)
        if now.digest != spec.digest:
            raise QwendError(
                f"the files in {spec.folder} changed since the plan: expected digest sha256:{spec.digest}, "
                f"got sha256:{now.digest}",
                code="lock-changed",
                hint="plan again",
            )
        engine_platform = await self._platform()
        if engine_platform not in spec.platforms:
            raise UsageError(
                f"flavour {spec.flavour} of {spec.name} is for {', '.join(spec.platforms)}; the engine runs "
                f"{engine_platform}",
                code="wrong-platform",
            )
        base = await self._checked_base(spec)
        settings = await asyncio.to_thread(merged_settings, self._own, self._environ)
        folder = self.root / "context" / spec.key
        laid = await asyncio.to_thread(context.lay_out, spec, folder, settings.find_links)
        trail = Trail(f"image {spec.name}", progress)
        log = self.root / "logs" / f"{spec.key}.jsonl"
        private = self._private / short(spec.key)
        try:
            secrets = await asyncio.to_thread(self._secrets, settings, private)
            status = await run_buildx(
                self._arguments(spec, laid, base, secrets),
                environment=client_environment(self._environ, self._connection.address().url),
                log=log,
                trail=trail,
                held=[held],
            )
        finally:
            shutil.rmtree(private, ignore_errors=True)
        if status:
            note = context.note_of(spec)
            raise build_trouble(trail, status=status, base=base, log=log, note=note)
        inspected = await inspect_image(self._connection, spec.container)
        if inspected is None:
            raise StepFailed(f"the build of {spec.key} left no image", code="build-failed", hint=str(log))
        return msgspec.structs.replace(
            realised(spec.key, spec.digest, inspected), seconds=round(time.monotonic() - begun, 2)
        )

    def _arguments(
        self, spec: ImageSpec, laid: context.Context, base: str, secrets: Mapping[str, str]
    ) -> list[str]:
        """The command line of the build. The network is the host's for the build alone: a registry behind
        the host's own routes is reached, and a container of the image gets none of it."""
        named = {"BASE": base, **laid.arguments}
        labels = {
            **laid.labels,
            CONSTRUCTION: construction_of(spec, self._base),
            "org.opencontainers.image.base.name": base,
        }
        return [
            *("build", "--builder", "default", "--progress", "rawjson", "--provenance", "false", "--load"),
            *("--network", "host", "--tag", spec.container),
            *(part for name, path in secrets.items() for part in ("--secret", f"id={name},src={path}")),
            *(part for name, value in named.items() for part in ("--build-arg", f"{name}={value}")),
            *(part for name, value in labels.items() for part in ("--label", f"{name}={value}")),
            laid.folder,
        ]

    def _secrets(self, settings: IndexSettings, private: Path) -> dict[str, str]:
        """Files for the build's secrets, in memory where the system has such a place. Blocking."""
        shutil.rmtree(private, ignore_errors=True)  # of a daemon that was killed
        private.mkdir(mode=0o700, parents=True)
        bundle = ca_bundle(settings, private)
        settings = msgspec.structs.replace(settings, ca=bundle)
        path = private / "settings"
        path.touch(mode=0o600)
        path.write_text(context.settings_secret(settings))
        found = {"settings": str(path)}
        if bundle:
            context.check_ca(bundle)
            found["ca"] = bundle
        return found

    async def _checked_base(self, spec: ImageSpec) -> str:
        """The base image for the build argument. A local one goes by its tag (BuildKit would look for an id at
        a registry), so its id is checked before."""
        base = base_of(spec, self._base)
        reference = base.reference or context.BASE
        if base.id is not None:
            inspected = await inspect_image(self._connection, reference)
            if inspected is None or inspected["Id"] != base.id:
                got = inspected["Id"] if inspected else "nothing"
                raise QwendError(
                    f"the base image {reference} should be {base.id}; the engine has {got}",
                    code="base-changed",
                    hint="make it again (images/make-base) or set [images] base_id of qwend.toml to what it is",
                )
        return reference

    async def _platform(self) -> str:
        version = await self._connection.call(lambda client: client.version())
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(version["Arch"], version["Arch"])
        return f"{version['Os']}-{machine}"

    @contextlib.asynccontextmanager
    async def _lock(self, key: str, progress: OnProgress) -> AsyncIterator[int]:
        """Holds the build of `key`; a build that outlived its daemon holds it too, and is waited for."""
        for folder in (self.root, self.root / "locks", self.root / "logs", self.root / "context"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        trail = Trail(f"image {key}", progress)
        log = self.root / "logs" / f"{key}.jsonl"
        shown = [0]

        def pass_on() -> None:
            with contextlib.suppress(OSError), log.open("rb") as file:
                if file.seek(0, os.SEEK_END) < shown[0]:
                    shown[0] = 0
                file.seek(shown[0])
                for line in file:
                    if line.endswith(b"\n"):
                        shown[0] += len(line)
                        trail.read(line)

        async with hold(self.root / "locks" / key, pass_on) as handle:
            yield handle


def _remove(name: str, client: Any) -> None:
    client.remove_image(name)


def _locked(image: Image) -> ImageSpec:
    if isinstance(image, ImageSpec):
        return image
    program = isinstance(image, HostProgram)
    raise UsageError(
        f"{image.name} is {'a program of this machine' if program else 'not a locked image'}; "
        "a container cannot run it",
        hint="take --runtime native" if program else None,
    )


def _labels(inspected: Mapping[str, Any]) -> dict[str, str]:
    return (inspected.get("Config") or {}).get("Labels") or {}


def _check_labels(spec: ImageSpec, inspected: Mapping[str, Any]) -> None:
    """The image must say that it is this spec's, lock and all."""
    labels = _labels(inspected)
    for what, wanted in (("digest", spec.digest), ("lock", context.lock_digest(spec))):
        got = labels.get(context.LABEL + what)
        if got != wanted:
            raise QwendError(
                f"{spec.container} is not what its name says: its {what} is {got or 'missing'}, "
                f"the {'lock' if what == 'lock' else 'image folder'} has {wanted}",
                code="lock-mismatch",
                hint=f"if nobody means it to be so: docker rmi {spec.container}, then build again",
            )
