"""Manifests: what each fingerprint made, with its provenance. Files are the truth, memory mirrors them."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

import msgspec

from qwend.adapters.store.disk import sync, write_durably
from qwend.adapters.store.layout import Layout
from qwend.model.artifact import Artifact

logger = logging.getLogger("qwend.store")

FORMAT = 1
_SUFFIX = ".json"


class Manifest(msgspec.Struct, frozen=True):
    """One file of `manifests/`. `times` are the modification times (ns) of the artifact's files, in order;
    none for a referenced artifact."""

    artifact: Artifact
    times: tuple[int, ...] = ()
    format: int = FORMAT


class Catalogue:
    """All manifests of a store. Safe to use from several threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int, int], Manifest]] = {}
        self._of_digest: dict[str, set[str]] = {}
        self.broken: dict[str, str] = {}
        """Manifests that cannot be read, by file name, with the reason."""

    def load(self) -> None:
        """Reads all of them."""
        for name in sorted(os.listdir(self._layout.manifests)):
            if name.endswith(_SUFFIX):
                self.get(name.removesuffix(_SUFFIX))

    def get(self, fingerprint: str) -> Manifest | None:
        """The manifest of a fingerprint, from memory if its file is unchanged; None if there is none."""
        path = self._layout.manifest(fingerprint)
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            self._forget(fingerprint)
            return None
        key = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        with self._lock:
            known = self._known.get(fingerprint)
        if known is not None and known[0] == key:
            return known[1]
        manifest = self._read(path)
        if manifest is None or manifest.artifact.fingerprint != fingerprint:
            self.broken.setdefault(os.path.basename(path), "it is of another fingerprint")
            self._forget(fingerprint)
            return None
        manifest = self._placed(manifest)
        with self._lock:
            self._known[fingerprint] = (key, manifest)
            self._of_digest.setdefault(manifest.artifact.digest, set()).add(fingerprint)
        return manifest

    def by_digest(self, digest: str) -> Artifact | None:
        """Some artifact with this content, from memory."""
        with self._lock:
            for fingerprint in self._of_digest.get(digest, ()):
                return self._known[fingerprint][1].artifact
        return None

    def fingerprints(self, digest: str, *, referenced: bool) -> set[str]:
        """Every fingerprint that came to this content, in the store or in files of the user's."""
        with self._lock:
            found = self._of_digest.get(digest, ())
            return {one for one in found if self._known[one][1].artifact.referenced == referenced}

    def all(self) -> list[Manifest]:
        """Everything, newest first."""
        with self._lock:
            found = [manifest for _, manifest in self._known.values()]
        return sorted(found, key=lambda one: (-one.artifact.created, one.artifact.fingerprint))

    def put(self, manifest: Manifest) -> Artifact:
        """Writes a manifest durably; returns the artifact with its location."""
        path = self._layout.manifest(manifest.artifact.fingerprint)
        write_durably(path, encode(manifest), staged=self._layout.stage())
        return self._found(manifest.artifact.fingerprint)

    def adopt(self, sealed: str, fingerprint: str) -> Artifact:
        """Moves a manifest that was written elsewhere on this volume to its place."""
        os.rename(sealed, self._layout.manifest(fingerprint))
        sync(self._layout.manifests)
        return self._found(fingerprint)

    def remove(self, fingerprint: str, into: str | None = None) -> None:
        """Removes a manifest, or moves it into a folder."""
        path = self._layout.manifest(fingerprint)
        with contextlib.suppress(FileNotFoundError):
            if into is None:
                os.unlink(path)
            else:
                os.rename(path, os.path.join(into, os.path.basename(path)))
        self._forget(fingerprint)

    def _found(self, fingerprint: str) -> Artifact:
        self._forget(fingerprint)
        manifest = self.get(fingerprint)
        assert manifest is not None, "a manifest that was just written is there"
        return manifest.artifact

    def _forget(self, fingerprint: str) -> None:
        with self._lock:
            known = self._known.pop(fingerprint, None)
            if known is not None:
                others = self._of_digest[known[1].artifact.digest]
                others.discard(fingerprint)
                if not others:
                    del self._of_digest[known[1].artifact.digest]

    def _read(self, path: str) -> Manifest | None:
        try:
            manifest = read(path)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            logger.warning("the manifest %s cannot be read: %s", path, error)
            self.broken[os.path.basename(path)] = str(error)
            return None
        self.broken.pop(os.path.basename(path), None)
        return manifest

    def _placed(self, manifest: Manifest) -> Manifest:
        artifact = manifest.artifact
        where = self._layout.view if artifact.referenced else self._layout.object
        placed = msgspec.structs.replace(artifact, location=where(artifact.digest))
        return msgspec.structs.replace(manifest, artifact=placed)


def encode(manifest: Manifest) -> bytes:
    """A manifest as it is written: JSON that people can read, without the store's own place."""
    artifact = msgspec.structs.replace(manifest.artifact, location="")
    data = msgspec.json.encode(msgspec.structs.replace(manifest, artifact=artifact))
    return msgspec.json.format(data, indent=1) + b"\n"


def read(path: str) -> Manifest:
    """Reads one. Raises OSError or msgspec's errors; a newer format is a msgspec error too."""
    with open(path, "rb") as file:
        manifest = msgspec.json.decode(file.read(), type=Manifest)
    if manifest.format > FORMAT:
        raise msgspec.ValidationError(f"format {manifest.format} is newer than this qwend")
    return manifest


def manifests_of(root: str) -> Iterator[Artifact]:
    """What a store's manifests say, for a database that is made anew; unreadable ones are passed over."""
    layout = Layout(root)
    catalogue = Catalogue(layout)
    if os.path.isdir(layout.manifests):
        catalogue.load()
    yield from (manifest.artifact for manifest in catalogue.all())
