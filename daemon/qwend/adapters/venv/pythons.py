"""Which interpreter an environment is made with."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from qwend.adapters.package_trouble import no_python
from qwend.errors import UsageError
from qwend.model.image import ImageSpec
from qwend.model.image_file import python_minors

_ASK_S = 10.0
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def host_platform() -> str:
    """This machine in image.toml's words, such as `linux-x86_64`; other machines in the same form."""
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        return f"macos-{'arm64' if machine in ('arm64', 'aarch64') else machine}"
    return f"{sys.platform}-{_MACHINES.get(machine, machine)}"


def check_platform(spec: ImageSpec, here: str | None = None) -> None:
    """UsageError where the image is not for this machine, or for containers only."""
    if spec.base is not None:
        raise UsageError(
            f"flavour {spec.flavour} of {spec.name} is made on {spec.base}: it is a container image only",
            code="wrong-platform",
            hint="take the runtime docker",
        )
    here = here or host_platform()
    if here not in spec.platforms:
        raise UsageError(
            f"flavour {spec.flavour} of {spec.name} is for {', '.join(spec.platforms)}; this is {here}",
            code="wrong-platform",
        )


def choose_python(given: str, *, uv: str, env: Mapping[str, str], downloads: bool) -> str:
    """The path of an interpreter in the range `given` (`>=3.11,<3.14`), or a minor that uv may fetch.

    The one that runs qwend comes first, then `python3.X` on PATH and below pyenv's folder, then what uv
    finds in its own. UsageError says what to do where there is none. Blocking: some 50 ms per candidate.
    """
    minors = python_minors(given)
    own = f"3.{sys.version_info.minor}"
    if own in minors and (found := _own_interpreter(own)):
        return found
    for minor in minors:
        for candidate in _candidates(minor, env):
            if _answers(candidate, minor):
                return str(candidate)
        find = [uv, "python", "find", "--no-python-downloads", "--no-project", "--managed-python", minor]
        done = subprocess.run(find, env=dict(env), cwd="/", capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    if downloads:
        return minors[-1]
    raise no_python(" or ".join(minors), "uv may not fetch one ([images] python_downloads)")


def _candidates(minor: str, env: Mapping[str, str]) -> Iterator[Path]:
    for folder in env.get("PATH", os.defpath).split(os.pathsep):
        path = Path(folder) / f"python{minor}"
        if folder and os.access(path, os.X_OK):
            yield path
    pyenv = Path(env.get("PYENV_ROOT") or Path(env.get("HOME", "/")) / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{minor}.*/bin/python{minor}"), reverse=True)


def _answers(path: Path, minor: str) -> bool:
    """Whether it is a whole interpreter of that minor: a version manager's shim may lead nowhere."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [path, "-I", "-c", ask], capture_output=True, text=True, timeout=_ASK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == minor


def _own_interpreter(minor: str) -> str | None:
    """The interpreter that this environment was made from, not the environment's link to it."""
    for name in (f"python{minor}", "python3", "python"):
        path = Path(sys.base_prefix) / "bin" / name
        if os.access(path, os.X_OK):
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
