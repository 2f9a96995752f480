"""`ArtifactStore`: what the reconciler asks of the store (`effects.Store`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from qwend.adapters.json_text import printable
from qwend.adapters.store import intake, publish
from qwend.adapters.store.catalogue import Manifest
from qwend.adapters.store.disk import remove
from qwend.adapters.store.hashing import user_files
from qwend.adapters.store.keeping import Keeping
from qwend.adapters.store.layout import Layout, digest_of, in_object
from qwend.adapters.store.prune import empty_staging
from qwend.adapters.store.shelf import words
from qwend.adapters.store.views import changed_file, known_unchanged, make_view
from qwend.adapters.volume import Reserve, disk_full, is_full
from qwend.core.redact import Redactor
from qwend.effects import Work
from qwend.errors import OutOfResource, QwendError
from qwend.model.artifact import Artifact, Facts, StoredFile
from qwend.model.memory import human


class ArtifactStore(Keeping):
    """One per home, made by `await ArtifactStore.open(...)` and ended by `await close()`."""

    @classmethod
    async def open(
        cls,
        root: str,
        *,
        reserve: Reserve | None = None,
        quota: int | None = None,
        redactor: Redactor | None = None,
        clock: Callable[[], float] = time.time,
    ) -> ArtifactStore:
        """Opens or makes the store in a folder; what a crash cut off is finished or cleared away.

        `reserve` is given up where the disk is full and a finished output is to be kept; `quota` (bytes) stops
        new artifacts; `redactor` knows the secrets that may not stand in a provenance.
        """
        layout = Layout(root)

        def make() -> ArtifactStore:
            layout.make()
            empty_staging(layout)
            publish.clear_away(layout)
            store = cls(layout, reserve, quota, redactor or Redactor(), clock)
            intake.recover(layout, store._catalogue)
            store._catalogue.load()
            for manifest in store._catalogue.all():
                store._remember_files(manifest.artifact)
            return store

        return await asyncio.to_thread(make)

    # What the reconciler asks -----------------------------------------------------------------------------

    async def find(self, fingerprint: str) -> Artifact | None:
        manifest = self._catalogue.get(fingerprint)
        if manifest is None:
            return None
        artifact = manifest.artifact
        if artifact.referenced:
            if known_unchanged(self._hasher, artifact):
                return artifact
            return artifact if await self._run(changed_file, self._hasher, artifact) is None else None
        doubtful = _doubtful(manifest)
        if doubtful is None:
            return None
        if doubtful and not await self._run(self._same, artifact.location, doubtful):
            return None
        return artifact

    async def latest(self, recipe: str, step: str, engine: str) -> Artifact | None:
        for manifest in self._catalogue.all():  # newest first
            told = manifest.artifact.provenance
            if (told.get("recipe"), told.get("step"), told.get("engine")) == (recipe, step, engine):
                found = await self.find(manifest.artifact.fingerprint)
                if found is not None:
                    return found
        return None

    def work(self, fingerprint: str) -> Work:
        root = self._layout.work_of(fingerprint)
        return Work(root, *(os.path.join(root, name) for name in ("out", "scratch", "report.jsonl")))

    async def prepare(self, fingerprint: str, keep: bool) -> Work:
        if self._quota is not None and (taken := self.usage()) >= self._quota:
            raise OutOfResource(
                f"the store takes {human(taken)} of the {human(self._quota)} that qwend.toml allows",
                code="store-quota",
                hint="`qwend store prune` makes room, or raise store.quota",
            )
        self._give_birth(fingerprint)
        return await self._run(self._prepare, self._layout.work_of(fingerprint), keep)

    def _prepare(self, root: str, keep: bool) -> Work:
        work = Work(*(os.path.join(root, name) for name in ("", "out", "scratch", "report.jsonl")))
        work = msgspec.structs.replace(work, root=root)
        with self._guarded("preparing a step's folders", root):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(root, "sealed.json"))
            if not keep:
                remove(work.output)
            remove(work.report)
            for folder in (work.root, work.output, work.scratch):
                os.makedirs(folder, mode=0o700, exist_ok=True)
            with open(work.report, "wb"):
                pass
        return work

    async def commit(
        self,
        work: Work,
        *,
        fingerprint: str,
        type: str,
        facts: Facts,
        metrics: Mapping[str, float],
        provenance: Mapping[str, Any],
    ) -> Artifact:
        label = intake.Label(fingerprint, type, facts, metrics, self._clean(provenance), self._clock())
        return await self._run(self._commit, work.output, label)

    def _commit(self, out: str, label: intake.Label) -> Artifact:
        try:
            return self._take_in(out, label)
        except OSError as error:
            if is_full(error) and self._reserve is not None and self._reserve.free():
                with contextlib.suppress(OSError):
                    return self._take_in(out, label)
            if is_full(error):
                needed = _bytes_of(out)
                remove(self._layout.work_of(label.fingerprint))
                raise disk_full(self._layout.root, "keeping the step's output", needed) from None
            raise QwendError(
                f"the step's output cannot be kept: {words(error)}", code="store-write"
            ) from None

    def _take_in(self, out: str, label: intake.Label) -> Artifact:
        intake.seal(self._layout, self._hasher, self._twin, out, label, self._owner)
        with self._lock:
            artifact = intake.finish(self._layout, self._catalogue, label.fingerprint)
            self._remember_files(artifact)
            self._give_birth(label.fingerprint)
        return artifact

    async def discard(self, fingerprint: str) -> None:
        folder = self._layout.work_of(fingerprint)

        def work() -> None:
            with self._guarded("removing a step's folders", folder):
                remove(folder)

        await self._run(work)

    async def reference(
        self,
        path: str,
        *,
        fingerprint: str,
        type: str,
        facts: Facts,
        provenance: Mapping[str, Any],
        only: Collection[str] = (),
    ) -> Artifact:
        clean = self._clean(provenance)
        return await self._run(self._refer, path, fingerprint, type, facts, clean, frozenset(only))

    def _refer(
        self,
        path: str,
        fingerprint: str,
        type: str,
        facts: Facts,
        provenance: dict[str, Any],
        only: frozenset[str],
    ) -> Artifact:
        found = user_files(path)
        if os.path.isdir(path) and only:
            found = [one for one in found if one.path in only]
        if os.path.isdir(path) and len(found) < len(only):
            missing = ", ".join(sorted(only - {one.path for one in found})[:3])
            raise QwendError(
                f"{path} no longer holds {missing}", code="no-such-file", hint="run qwend up again"
            )
        files = tuple(sorted(self._hash(found), key=lambda file: file.path))
        digest = digest_of(files)
        artifact = Artifact(
            digest,
            fingerprint,
            type,
            files,
            sum(file.size for file in files),
            facts,
            provenance=provenance,
            created=self._clock(),
            referenced=True,
        )
        with self._guarded("referring to files", self._layout.root), self._lock:
            make_view(self._layout, digest, found)
            self._give_birth(fingerprint)
            return self._catalogue.put(Manifest(artifact))

    async def alias(
        self, fingerprint: str, of: Artifact, metrics: Mapping[str, float], provenance: Mapping[str, Any]
    ) -> Artifact:
        manifest = self._catalogue.get(of.fingerprint)
        if manifest is None or manifest.artifact.digest != of.digest:
            raise QwendError(f"artifact {of.digest[:12]} is not in the store any more", code="artifact-gone")
        copy = msgspec.structs.replace(
            of,
            fingerprint=fingerprint,
            metrics={**of.metrics, **metrics},
            provenance=self._clean(provenance),
            created=self._clock(),
        )
        return await self._run(self._put, Manifest(copy, manifest.times))

    def _put(self, manifest: Manifest) -> Artifact:
        with self._guarded("writing a manifest", self._layout.root), self._lock:
            self._give_birth(manifest.artifact.fingerprint)
            return self._catalogue.put(manifest)

    async def digest(self, path: str) -> tuple[str, int]:
        def look() -> tuple[str, int]:
            found = user_files(path)
            files = self._hash(found)
            if os.path.isdir(path):
                return digest_of(files), sum(file.size for file in files)
            return files[0].sha256, files[0].size

        return await self._run(look)

    async def publish(self, artifact: Artifact, out: str) -> None:
        await self._run(publish.publish, self._layout, artifact, out)

    async def publishable(self, out: str) -> None:
        await self._run(publish.require_free, self._layout, out)

    def _clean(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        clean: dict[str, Any] = printable(self._redactor.value(msgspec.to_builtins(dict(provenance))))
        return clean


def _doubtful(manifest: Manifest) -> list[StoredFile] | None:
    """The files whose time is not the recorded one, so that only reading tells; None if one is surely not whole."""
    doubtful = []
    for file, time_ns in zip(manifest.artifact.files, manifest.times, strict=False):
        try:
            status = os.lstat(in_object(manifest.artifact.location, file.path))
        except OSError:
            return None
        if status.st_size != file.size:
            return None
        if status.st_mtime_ns != time_ns:
            doubtful.append(file)
    return doubtful


def _bytes_of(folder: str) -> int:
    sizes = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes += os.lstat(os.path.join(where, name)).st_size
    return sizes
