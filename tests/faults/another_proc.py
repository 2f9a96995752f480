"""A daemon that reads another file in the place of one of /proc: what the kernel tells can then be made to differ.

The file is mounted over it in a mount namespace of the daemon's own, so all that the daemon starts sees it too.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_MOUNT = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


def instead_of(place: str, file: Path) -> list[str]:
    """What a daemon's command begins with. Skips the test where this user may not mount."""
    prefix = ["unshare", "--mount", "sh", "-c", _MOUNT, "sh", str(file), place]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux)")
    probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"needs a mount namespace: {probe.stderr.strip()}")
    return prefix
