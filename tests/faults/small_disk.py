"""Runs a scenario on a disk that is really small: a tmpfs in a mount namespace of its own.

    result = on_a_small_disk("tests.faults.full_disk", "artifact", megabytes=32)

The scenario is a coroutine function of that module; it is given the folder where the disk is mounted and returns
JSON data. No privileges are needed where the kernel lets users have namespaces; elsewhere the test is skipped.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

import qwend

_SPACE = ("unshare", "--map-root-user", "--mount")
_MOUNT = 'mount -t tmpfs -o "size=$1m,mode=0700" qwend-test "$2" && shift 2 && exec "$@"'


def on_a_small_disk(module: str, scenario: str, megabytes: int) -> Any:
    """What the scenario returned; its failure is the test's."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux) to mount a small disk")
    with tempfile.TemporaryDirectory(prefix="qwend-small-") as folder:
        probe = subprocess.run(
            [*_SPACE, "mount", "-t", "tmpfs", "qwend-test", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if probe.returncode != 0:
            pytest.skip(f"needs a mount namespace: {probe.stderr.strip()}")
        roots = [str(Path(qwend.__file__).parents[1]), str(Path(__file__).parents[2])]
        run = [sys.executable, "-m", "tests.faults.small_disk", folder, module, scenario]
        done = subprocess.run(
            [*_SPACE, "sh", "-c", _MOUNT, "sh", str(megabytes), folder, *run],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def fill(folder: Path, name: str = "filler", leave: int = 0) -> Path:
    """Writes a file until nothing more goes in, then gives `leave` bytes back."""
    path = folder / name
    with path.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
        if leave:
            file.truncate(max(0, file.tell() - leave))
    return path


if __name__ == "__main__":
    where, module_name, function = sys.argv[1:]
    print(json.dumps(asyncio.run(getattr(importlib.import_module(module_name), function)(Path(where)))))
