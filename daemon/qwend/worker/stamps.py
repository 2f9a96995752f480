"""Whether files are still what they were: modification time and size of each, which costs microseconds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from qwend.worker.wire import Stamp

LIMIT = 5000
"""More files than this are not watched one by one; what depends on them is not remembered."""


def stamp(path: str) -> Stamp:
    """The stamp of one path; links are followed, as whoever reads it will."""
    try:
        found = os.stat(path)
    except OSError:
        return Stamp(path, -1, -1)
    return Stamp(path, found.st_mtime_ns, found.st_size)


def stamp_all(paths: Iterable[str]) -> tuple[Stamp, ...]:
    return tuple(stamp(path) for path in paths)


def unchanged(stamps: Iterable[Stamp]) -> bool:
    return all(stamp(known.path) == known for known in stamps)


def tree(root: str) -> list[str] | None:
    """A file, or a folder with everything below it (a folder's own time tells of files that came or went).
    Caches of Python are left out. None if there is more than LIMIT."""
    if not os.path.isdir(root):
        return [root]
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found.append(folder)
        found += [str(Path(folder) / name) for name in files]
        if len(found) > LIMIT:
            return None
    return found
