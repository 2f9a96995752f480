"""Removes what nothing refers to any more."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator

import msgspec

from qwend.adapters.store.catalogue import Catalogue
from qwend.adapters.store.disk import remove
from qwend.adapters.store.layout import Layout


class Removal(msgspec.Struct, frozen=True):
    """One thing that goes: an artifact by its digest, or `work`, `quarantined` or `orphan` files. Bytes."""

    digest: str
    type: str
    size: int


class Pruning(msgspec.Struct, frozen=True):
    """What was (or would be) removed, and how many bytes that frees: files that have a name elsewhere do not."""

    removed: list[Removal]
    freed: int


def prune(layout: Layout, catalogue: Catalogue, kept: set[str], *, dry_run: bool) -> Pruning:
    """Removes all but the artifacts and work folders of the fingerprints in `kept`. Call it with the store's lock."""
    manifests = catalogue.all()
    alive = {one.artifact.digest for one in manifests if one.artifact.fingerprint in kept}
    gone = [one.artifact for one in manifests if one.artifact.fingerprint not in kept]
    removals: list[Removal] = []
    paths: list[str] = []
    seen: set[str] = set()
    for artifact in gone:
        if artifact.digest in alive or artifact.digest in seen:
            continue
        seen.add(artifact.digest)
        place = artifact.location
        if artifact.referenced:
            paths.append(place)  # links only: the files are the user's
        else:
            paths.append(place)
            removals.append(Removal(artifact.digest, artifact.type, artifact.size))
    for folder, known, word in (
        (layout.objects, alive | seen, "orphan"),
        (layout.work, kept, "work"),
        (layout.quarantine, set(), "quarantined"),
    ):
        for name in sorted(os.listdir(folder)):
            if name not in known:
                path = os.path.join(folder, name)
                paths.append(path)
                removals.append(Removal(name, word, sum(size for _, size, _ in _files(path))))
    paths += [
        os.path.join(layout.views, name) for name in os.listdir(layout.views) if name not in alive | seen
    ]
    freed = _freed(paths)
    if not dry_run:
        for artifact in gone:
            catalogue.remove(artifact.fingerprint)
        for path in paths:
            _take_away(layout, path)
    return Pruning(removals, freed)


def empty_staging(layout: Layout) -> None:
    """What was on its way when the daemon ended: none of it is anything."""
    for name in os.listdir(layout.staging):
        with contextlib.suppress(OSError):
            remove(os.path.join(layout.staging, name))


def _take_away(layout: Layout, path: str) -> None:
    """Gone from its place at once, and then from the disk."""
    staged = layout.stage()
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
        os.rename(path, staged)
    except FileNotFoundError:
        return
    remove(staged)


def _freed(paths: list[str]) -> int:
    """Bytes that removing these trees frees: a file counts once all of its names go."""
    names: Counter[tuple[int, int]] = Counter()
    of: dict[tuple[int, int], tuple[int, int]] = {}
    for path in paths:
        for key, size, links in _files(path):
            names[key] += 1
            of[key] = (size, links)
    return sum(size for key, (size, links) in of.items() if names[key] >= links)


def _files(path: str) -> Iterator[tuple[tuple[int, int], int, int]]:
    """(inode, size, number of names) of every file of a tree, links not followed."""
    if not os.path.isdir(path) or os.path.islink(path):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            yield (status.st_dev, status.st_ino), status.st_size, status.st_nlink
        return
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(folder, name))
                yield (status.st_dev, status.st_ino), status.st_size, status.st_nlink
