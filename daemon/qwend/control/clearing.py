"""What services that came to rest have left in their scratch folders (`Launch.resumable`): found, and removed."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from qwend.model.service import Step
from qwend.reconciler.places import folder


async def clear_scratch(home: str, rows: Iterable[Step], dry_run: bool) -> int:
    """Bytes of it. A folder is renamed before it is removed: a service that starts meanwhile finds none."""
    freed = 0
    for row in rows:
        root = Path(home) / "run" / row.recipe / folder(row.born or row.step)
        scratch, gone = root / "scratch", root / "removed"
        if row.kind != "service" or not row.settled or row.alive or not (scratch.is_dir() or gone.is_dir()):
            continue
        if not dry_run:
            if gone.is_dir():  # of a daemon that was killed
                await asyncio.to_thread(shutil.rmtree, gone, True)
            if scratch.is_dir():
                scratch.rename(gone)
        freed += await asyncio.to_thread(_size, scratch if dry_run else gone)
        if not dry_run:
            await asyncio.to_thread(shutil.rmtree, gone, True)
    return freed


def _size(root: Path) -> int:
    return sum(
        os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(root) for name in names
    )
