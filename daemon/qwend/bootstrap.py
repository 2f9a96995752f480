"""Makes the environment of a checkout: `python -I bootstrap.py ENVIRONMENT LOCK STAMP`.

Run by `./qwend` and `./check`, by whatever Python the user has, so it needs nothing but the standard library.
pip (the user's, with the user's settings) fetches uv and msgspec by the lock's hashes; uv, told what pip's and
uv's settings say, brings the rest. Where uv cannot, pip does. One process builds, others wait for it; the stamp
is written last, so that what was killed half-way is seen and begun anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

STAMP = ".qwend-stamp"
BUILDING = "building\n"
FIRST = ("uv", "msgspec")
"""What pip brings, so that uv can bring the rest: uv, and what reading pip's settings for it takes."""

_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==", re.MULTILINE)
_NOT_OURS = {
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_USER",
    "PIP_ROOT",
    "PIP_REQUIRE_VIRTUALENV",
    "PYTHONPATH",
    "PYTHONHOME",
}
_SETTINGS = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from qwend.adapters.package_environment import uv_environment, uv_options
from qwend.adapters.pip_settings import IndexSettings, merged_settings
settings = merged_settings(IndexSettings(), prefix=Path(sys.base_prefix))
print(json.dumps([uv_environment(settings, os.environ), uv_options(settings)]))
"""


class Failed(Exception):
    """The environment could not be made; the text says why and how to mend it."""


def main(environment: Path, lock: Path, stamp: str) -> int:
    """Makes the environment where it is not what the stamp says. Exit code 0, 3 where it cannot be made, 130."""
    try:
        with _alone(environment):
            if _stamp(environment) != stamp:
                _say(f"making {environment} from {lock.name}, once")
                begun = time.monotonic()
                make(environment, lock, stamp)
                _say(f"made it in {time.monotonic() - begun:.0f} s")
    except Failed as error:
        _say(f"{error}\nqwend: pip's own settings say where packages come from: pip config list")
        return 3
    except OSError as error:
        _say(f"cannot make {environment}: {error.strerror or error} ({error.filename})")
        return 3
    except KeyboardInterrupt:
        _say("interrupted; the next use begins it anew")
        return 130
    return 0


def make(environment: Path, lock: Path, stamp: str) -> None:
    """Makes or renews the environment; the stamp comes last."""
    before = _stamp(environment)
    if environment.exists() and before is None:
        raise Failed(f"{environment} is there and not of qwend's making; move it away and try again")
    if before == BUILDING or (before is not None and not _runs(environment)):
        shutil.rmtree(environment)
    environment.mkdir(exist_ok=True)
    (environment / STAMP).write_text(BUILDING)
    python = environment / "bin" / "python"
    if not python.exists():
        _create(environment)
    _install(environment, lock)
    (environment / STAMP).write_text(stamp)


def part_of(lock: str, names: tuple[str, ...]) -> str:
    """The entries of a lock for these packages, hashes included."""
    begins = [*_ENTRY.finditer(lock)]
    ends = [entry.start() for entry in begins[1:]] + [len(lock)]
    return "".join(
        lock[entry.start() : end]
        for entry, end in zip(begins, ends, strict=True)
        if entry["name"].lower() in names
    )


def _create(environment: Path) -> None:
    try:
        import venv
    except ImportError:
        raise Failed(f"{sys.executable} has no venv module (Debian: apt install python3-venv)") from None
    venv.EnvBuilder(symlinks=True).create(environment)


def _install(environment: Path, lock: Path) -> None:
    python, root = environment / "bin" / "python", lock.parent
    pip = _pip(python)
    first = environment / "first.lock"
    first.write_text(part_of(lock.read_text(), FIRST))
    _run([*pip, "install", "--require-hashes", "--no-deps", "-r", str(first)], _pip_environment(), "pip")
    editable = ["--no-deps", "--no-build-isolation", "--editable", str(root)]
    try:
        ask = [str(python), "-I", "-c", _SETTINGS, str(root / "daemon")]
        environ, options = json.loads(_run(ask, dict(os.environ), "reading the package settings"))
        uv, there = [str(environment / "bin" / "uv"), "pip"], [*options, "--python", str(python)]
        _run([*uv, "sync", *there, "--require-hashes", str(lock)], environ, "uv")
        _run([*uv, "install", *there, *editable], environ, "uv")
    except Failed as error:
        _say(f"{error}\nqwend: trying with pip alone")
        _run([*pip, "install", "--require-hashes", "-r", str(lock)], _pip_environment(), "pip")
        _run([*pip, "install", *editable], _pip_environment(), "pip")


def _pip(python: Path) -> list[str]:
    """A pip that installs into the environment: this Python's own, else one that is put into it."""
    own = [sys.executable, "-I", "-m", "pip", "--python", str(python)]
    with contextlib.suppress(Failed):
        _run([*own, "--version"], _pip_environment(), "pip")
        return own
    try:
        _run([python, "-I", "-m", "ensurepip"], dict(os.environ), "ensurepip")
    except Failed:
        raise Failed(f"{sys.executable} has no pip (Debian: apt install python3-venv)") from None
    return [str(python), "-I", "-m", "pip"]


def _pip_environment() -> dict[str, str]:
    """The user's settings of pip, less those that would put packages elsewhere or bend the lock."""
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    return environ | {"PIP_CONSTRAINT": "", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _run(command: Sequence[str | Path], environ: dict[str, str], what: str) -> str:
    """The command's output; Failed with its last lines."""
    try:
        ended = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise Failed(f"{what} does not start: {error}") from None
    if ended.returncode != 0:
        last = "\n".join((ended.stderr or ended.stdout).strip().splitlines()[-12:])
        raise Failed(f"{what} failed:\n{last}")
    return ended.stdout


def _runs(environment: Path) -> bool:
    """Whether its Python is still there: an upgrade of the system's takes it away."""
    with contextlib.suppress(Failed):
        _run([environment / "bin" / "python", "-I", "-c", "import click"], {}, "python")
        return True
    return False


def _stamp(environment: Path) -> str | None:
    try:
        return (environment / STAMP).read_text()
    except OSError:
        return None


@contextlib.contextmanager
def _alone(environment: Path) -> Iterator[None]:
    """Holds the lock of the environment, which ends with this process however it ends."""
    with open(f"{environment}.lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another process is making {environment}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"qwend: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] + "\n"))
