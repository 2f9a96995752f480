"""Which interpreter an environment is made with."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from qwend.errors import UsageError
from qwend.model.image import ImageSpec
from qwend.model.image_file import python_minors

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def host_platform() -> str:
    """This machine in image.toml's words, such as `linux-x86_64`; other machines in the same form."""
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        return f"macos-{'arm64' if machine in ('arm64', 'aarch64') else machine}"
    return f"{sys.platform}-{_MACHINES.get(machine, machine)}"


def check_platform(spec: ImageSpec, here: str | None = None) -> None:
    """UsageError where the image is not for this machine."""
    here = here or host_platform()
    if here not in spec.platforms:
        raise UsageError(
            f"flavour {spec.flavour} of {spec.name} is for {', '.join(spec.platforms)}; this is {here}",
            code="wrong-platform",
        )


def choose_python(given: str, *, uv: str, env: Mapping[str, str], downloads: bool) -> str:
    """The path of an interpreter in the range `given` (`>=3.11,<3.14`), or a minor that uv may fetch.

    The one that runs qwend comes first, then what uv finds on PATH and in its own folder; UsageError says
    what to install where there is none. Takes about 50 ms when it has to search.
    """
    minors = python_minors(given)
    own = f"3.{sys.version_info.minor}"
    if own in minors and (found := _own_interpreter(own)):
        return found
    for minor in minors:
        done = subprocess.run(
            [uv, "python", "find", "--no-python-downloads", "--no-project", "--system", minor],
            env=dict(env),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    if downloads:
        return minors[-1]
    raise UsageError(
        f"no Python {' or '.join(minors)} on this machine",
        code="no-python",
        hint="install one, or let uv fetch it: [images] python_downloads = true in qwend.toml",
    )


def _own_interpreter(minor: str) -> str | None:
    """The interpreter that this environment was made from, not the environment's link to it."""
    for name in (f"python{minor}", "python3", "python"):
        path = Path(sys.base_prefix) / "bin" / name
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def python_version(prefix: Path) -> str:
    """`3.11.7` from `pyvenv.cfg` of an environment; "" where it does not say."""
    try:
        text = (prefix / "pyvenv.cfg").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+\.\d+)", text, re.MULTILINE)
    return found[1] if found else ""


def site_packages(prefix: Path) -> Path:
    """Where an environment keeps its packages."""
    minor = ".".join(python_version(prefix).split(".")[:2])
    return prefix / "lib" / f"python{minor}" / "site-packages"
