"""What every test may count on: what the machine lacks is said in the reason of a skip."""

from __future__ import annotations

import platform
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import cache

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun with a shell's `&`: what the tests start would ignore Ctrl-C as well, and it is the matter of some.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@cache
def _docker() -> str | None:
    """Why there is no Docker engine with BuildKit; None if there is one."""
    if shutil.which("docker") is None:
        return "no docker command"
    for command in (["docker", "version"], ["docker", "buildx", "version"]):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if ended.returncode != 0:
            return f"`{' '.join(command)}` fails: {(ended.stderr.strip().splitlines() or ['?'])[-1]}"
    return None


@cache
def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return "no NVIDIA driver (nvidia-smi)"
    ended = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return None if "GPU" in ended.stdout else "nvidia-smi lists no card"


def _mac() -> str | None:
    here = f"{platform.system()} {platform.machine()}"
    return None if here == "Darwin arm64" else f"needs an Apple-silicon Mac; this is {here}"


def _native() -> str | None:
    return None if platform.system() in {"Linux", "Darwin"} else f"no native runtime on {platform.system()}"


LACKS: dict[str, Callable[[], str | None]] = {"docker": _docker, "gpu": _gpu, "mac": _mac, "native": _native}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker, lacks in LACKS.items():
            if item.get_closest_marker(marker) and (reason := lacks()):
                item.add_marker(pytest.mark.skip(reason=f"{marker}: {reason}"))


@pytest.fixture(autouse=True)
def _no_home_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test meets the daemon or the settings of whoever runs it."""
    base = tmp_path_factory.getbasetemp()
    (base / "nobody.toml").touch()
    monkeypatch.setenv("QWEND_HOME", str(base / "nobody"))
    monkeypatch.setenv("QWEND_CONFIG", str(base / "nobody.toml"))
