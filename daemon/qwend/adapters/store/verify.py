"""Reads what is stored again: bits flip, disks write zeros, people edit. What is damaged is set aside."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable

import msgspec

from qwend.adapters.store.catalogue import Catalogue
from qwend.adapters.store.hashing import Changed, Hasher, read_digest
from qwend.adapters.store.layout import Layout, escape, in_object
from qwend.adapters.store.views import changed_file
from qwend.model.artifact import Artifact

logger = logging.getLogger("qwend.store")

_AGAIN = "the next `qwend up` that needs it makes or fetches it again"
_TAKEN = "the next `qwend up` takes the file as it is now"


class Damage(msgspec.Struct, frozen=True):
    """What is wrong with an artifact, and how it is mended. `path` is relative to it (escaped), empty where it is
    not about one file."""

    digest: str
    path: str
    problem: str
    mend: str


class Verifier:
    """One pass over a store. A file that several artifacts share is read once."""

    def __init__(
        self,
        layout: Layout,
        catalogue: Catalogue,
        hasher: Hasher,
        lock: threading.RLock,
        tell: Callable[[int], None],
    ) -> None:
        self._layout = layout
        self._catalogue = catalogue
        self._hasher = hasher
        self._lock = lock
        self._tell = tell
        self._read: dict[tuple[int, int], str] = {}
        self.suspects: set[str] = set()
        """Digests of files that turned out to be damaged: others may share them."""

    def check(self, artifact: Artifact) -> list[Damage]:
        """Checks one artifact; sets it aside if it is damaged, so that its step runs again."""
        if artifact.referenced:
            return self._check_view(artifact)
        found = self._problems(artifact)
        if found:
            self._set_aside(artifact.digest)
        return found

    def unreadable_manifests(self) -> list[Damage]:
        """Manifests that could not be read, which are set aside."""
        found = []
        for name, problem in sorted(self._catalogue.broken.items()):
            path = os.path.join(self._layout.manifests, name)
            if os.path.exists(path):
                text = f"the manifest cannot be read: {problem}"
                found.append(Damage("", escape(name), text, "set aside; " + _AGAIN))
                os.rename(path, os.path.join(self._layout.quarantine, name))
        self._catalogue.broken.clear()
        return found

    def _problems(self, artifact: Artifact) -> list[Damage]:
        expected = {file.path for file in artifact.files}
        mend = f"{artifact.digest[:12]} is set aside; {_made_again(artifact)}"
        found = []
        for file in artifact.files:
            problem = self._problem(artifact.location, file.path, file.size, file.sha256)
            if problem:
                found.append(Damage(artifact.digest, file.path, problem, mend))
                self.suspects.add(file.sha256)
        strangers = [path for path in _listing(artifact.location) if path not in expected]
        return found + [Damage(artifact.digest, path, "does not belong to it", mend) for path in strangers]

    def _problem(self, folder: str, path: str, size: int, sha256: str) -> str | None:
        mine = in_object(folder, path)
        try:
            status = os.lstat(mine)
            if not stat.S_ISREG(status.st_mode):
                return "is no file"
            if status.st_size != size:
                self._tell(size)
                return f"has {status.st_size} bytes instead of {size}"
            key = (status.st_dev, status.st_ino)
            if key in self._read:
                self._tell(size)
            else:
                self._read[key] = read_digest(mine, self._tell)[0]
            found = self._read[key]
        except FileNotFoundError:
            self._tell(size)
            return "is missing"
        except Changed:
            return "is being written to"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return None if found == sha256 else f"has sha256 {found} instead of {sha256}"

    def _check_view(self, artifact: Artifact) -> list[Damage]:
        path = changed_file(self._hasher, artifact, fresh=True)
        self._tell(artifact.size)
        if path is None:
            return []
        with self._lock:
            for fingerprint in self._catalogue.fingerprints(artifact.digest, referenced=True):
                self._catalogue.remove(fingerprint)
        problem = "is yours and was changed or removed since it was used"
        return [Damage(artifact.digest, path, problem, f"{artifact.digest[:12]} stays as it is; {_TAKEN}")]

    def _set_aside(self, digest: str) -> None:
        """Moves an artifact and its manifests into the quarantine: the files first. Cut off in between it is an
        artifact that lost its files, never damaged files that the step, made again, would take for its own."""
        with self._lock:
            folder = os.path.join(
                self._layout.quarantine, f"{digest}.{int(time.time())}-{os.urandom(2).hex()}"
            )
            os.mkdir(folder, 0o700)
            place = self._layout.object(digest)
            if os.path.isdir(place):
                os.chmod(place, 0o700)
                os.rename(place, os.path.join(folder, "files"))
                os.chmod(os.path.join(folder, "files"), 0o555)
            for fingerprint in self._catalogue.fingerprints(digest, referenced=False):
                self._catalogue.remove(fingerprint, into=folder)
        logger.warning("artifact %s is damaged and was moved to %s", digest[:12], folder)


def _made_again(artifact: Artifact) -> str:
    recipe, step = (artifact.provenance.get(key) for key in ("recipe", "step"))
    return f"`qwend up` of {recipe} makes or fetches {step} again" if recipe and step else _AGAIN


def _listing(folder: str) -> list[str]:
    found = []
    for where, _, names in os.walk(folder):
        found += [escape(os.path.relpath(os.path.join(where, name), folder)) for name in names]
    return sorted(found)
