"""Artifacts of files that stay where the user has them: a folder of links, one to each file."""

from __future__ import annotations

import contextlib
import os

from qwend.adapters.store.disk import remove, sync
from qwend.adapters.store.hashing import Changed, Found, Hasher
from qwend.adapters.store.layout import Layout, escape, in_object
from qwend.model.artifact import Artifact, StoredFile


def make_view(layout: Layout, digest: str, found: list[Found]) -> str:
    """The folder `views/<digest>` with a link for each file, made anew where it leads elsewhere.

    Container runtimes mount what the links mean, since outside of this machine's own view they lead nowhere.
    """
    place = layout.view(digest)
    if _leads(place, found):
        return place
    staged = layout.stage()
    for one in found:
        link = in_object(staged, escape(one.path))
        os.makedirs(os.path.dirname(link), mode=0o755, exist_ok=True)
        os.symlink(one.real, link)
    os.chmod(staged, 0o755)
    if os.path.lexists(place):
        old = layout.stage()
        os.rename(place, old)
        os.rename(staged, place)
        remove(old)
    else:
        with contextlib.suppress(FileExistsError):
            os.rename(staged, place)
    sync(layout.views)
    return place


def changed_file(hasher: Hasher, artifact: Artifact, *, fresh: bool = False) -> str | None:
    """The first file (escaped path) that is gone or no longer what it was; None if all are the same.

    A file whose status is known is not read; `fresh` reads all of them.
    """
    for file in artifact.files:
        path = os.path.realpath(in_object(artifact.location, file.path))
        try:
            if os.stat(path).st_size != file.size or hasher.file(path, fresh=fresh)[0] != file.sha256:
                return file.path
        except (OSError, Changed):
            return file.path
    return None


def known_unchanged(hasher: Hasher, artifact: Artifact) -> bool:
    """Whether all files are known to be the same without reading any: false is "perhaps not"."""
    try:
        return all(_is_known(hasher, artifact.location, file) for file in artifact.files)
    except OSError:
        return False


def _is_known(hasher: Hasher, folder: str, file: StoredFile) -> bool:
    return hasher.cache.get(os.stat(in_object(folder, file.path))) == file.sha256


def _leads(place: str, found: list[Found]) -> bool:
    try:
        return all(os.readlink(in_object(place, escape(one.path))) == one.real for one in found)
    except OSError:
        return False
