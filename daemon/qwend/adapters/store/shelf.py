"""What the rooms of the store share: its places, its catalogue, its threads and its one lock."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from qwend.adapters.store.catalogue import Catalogue
from qwend.adapters.store.hashing import Changed, Found, Hasher, still_written
from qwend.adapters.store.layout import Layout, escape, in_object
from qwend.adapters.store.stat_cache import StatCache
from qwend.adapters.volume import Reserve, disk_full, is_full
from qwend.core.redact import Redactor
from qwend.errors import QwendError, UsageError
from qwend.model.artifact import Artifact, StoredFile

T = TypeVar("T")

_THREADS = 4


class Shelf:
    """The store's common ground. What is visible changes under `lock`, by renames; hashing and copying go on
    outside of it."""

    def __init__(
        self,
        layout: Layout,
        reserve: Reserve | None,
        quota: int | None,
        redactor: Redactor,
        clock: Callable[[], float],
    ) -> None:
        self._layout = layout
        self._reserve = reserve
        self._quota = quota
        self._redactor = redactor
        self._clock = clock
        self._owner = os.stat(layout.root).st_uid
        self._lock = threading.RLock()
        self._catalogue = Catalogue(layout)
        self._hasher = Hasher(StatCache(layout.cache))
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._twins: dict[str, tuple[str, str]] = {}
        self._born: dict[str, int] = {}
        self._births = 0

    async def close(self) -> None:
        """Lets go of files and threads; a commit under way is finished when the store is next opened."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._hasher.close()
        self._hasher.cache.close()

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _all(self) -> Iterator[Artifact]:
        return (manifest.artifact for manifest in self._catalogue.all())

    def _stored(self) -> Iterator[Artifact]:
        return (artifact for artifact in self._all() if not artifact.referenced)

    def _hash(self, found: list[Found]) -> list[StoredFile]:
        try:
            return self._hasher.files(found)
        except Changed as error:
            raise still_written(error) from None
        except OSError as error:
            raise UsageError(f"cannot read {words(error)}", code="unreadable") from None

    def _same(self, folder: str, files: list[StoredFile]) -> bool:
        try:
            return all(self._hasher.file(in_object(folder, one.path))[0] == one.sha256 for one in files)
        except (OSError, Changed):
            return False

    def _give_birth(self, fingerprint: str) -> None:
        self._births += 1
        self._born[fingerprint] = self._births

    def _remember_files(self, artifact: Artifact) -> None:
        if not artifact.referenced:
            for file in artifact.files:
                self._twins.setdefault(file.sha256, (artifact.digest, file.path))

    def _forget_twins(self, digests: set[str]) -> None:
        self._twins = {sha: twin for sha, twin in self._twins.items() if twin[0] not in digests}
        for artifact in self._stored():
            if artifact.digest not in digests:
                self._remember_files(artifact)

    def _twin(self, file: StoredFile) -> str | None:
        twin = self._twins.get(file.sha256)
        return in_object(self._layout.object(twin[0]), twin[1]) if twin and file.size else None

    @contextlib.contextmanager
    def _guarded(self, doing: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_full(error):
                raise disk_full(path, doing) from None
            raise QwendError(f"{doing} failed: {words(error)}", code="store-write") from None


def words(error: OSError) -> str:
    """What went wrong, with the file's name made harmless."""
    name = error.filename
    text = escape(os.fsdecode(name)) + ": " if isinstance(name, str | bytes) else ""
    return f"{text}{error.strerror or error}"
