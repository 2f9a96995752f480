"""What this machine can do, and what to install for more: `qwend doctor`."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from typing import Any

import msgspec

from qwend.api.control import Json
from qwend.model.host import Host
from qwend.model.memory import human
from qwend.reconciler.world import World

_LOW_DISK = 10 * 1024**3


class Diagnosis:
    """Describes the machine as it is now."""

    def __init__(self, world: World, lacks: Callable[[], str | None] = lambda: None) -> None:
        """`lacks` tells why the engine cannot make our images."""
        self._world = world
        self._lacks = lacks

    async def describe(self) -> Json:
        host = await self._world.machine.observe()
        disk = shutil.disk_usage(self._world.home)
        return {
            "host": msgspec.to_builtins(host),
            "flavours": list(host.flavours()),
            "runtimes": [_native(), _docker(host, "docker" in self._world.runtimes, self._lacks())],
            "home": self._world.home,
            "disk": {"free": disk.free, "total": disk.total},
            "python": platform.python_version(),
            "warnings": _warnings(host, disk.free),
        }


def _native() -> dict[str, Any]:
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    detail = "locked environments under supervisord"
    using = f"compiles with {compiler}" if compiler else "compiles with zig from the package index"
    return {"name": "native", "ready": True, "detail": f"{detail}; {using}", "hint": ""}


def _docker(host: Host, wired: bool, lacks: str | None) -> dict[str, Any]:
    if host.docker is None and host.docker_lacks is not None:
        hint = (
            "have an administrator add you to the group (sudo usermod -aG docker $USER), log in again and start the "
            "daemon anew (qwend daemon stop); or use rootless Docker"
        )
        return {"name": "docker", "ready": False, "detail": host.docker_lacks, "hint": hint}
    if host.docker is None:
        hint = "install Docker Engine or start it; the native runtime does not need it"
        return {"name": "docker", "ready": False, "detail": "no engine answers", "hint": hint}
    cards = {True: "gives containers a card", False: "gives containers no card", None: ""}[host.docker_gpus]
    detail = "; ".join(part for part in (f"engine {host.docker}", cards) if part)
    if lacks is not None:
        hint = "set [images] base in qwend.toml to a mirror's, or make a local one with images/make-base"
        return {"name": "docker", "ready": False, "detail": f"{detail}; {lacks}", "hint": hint}
    return {"name": "docker", "ready": wired, "detail": detail, "hint": ""}


def _warnings(host: Host, free: int) -> list[str]:
    found = []
    if free < _LOW_DISK:
        found.append(f"only {human(free)} of disk are free: models are large (qwend store prune makes room)")
    if "microsoft" in platform.release().lower() and not host.gpus:
        found.append("this is WSL2 without a card: install NVIDIA's driver for WSL on Windows, not in here")
    if host.system == "windows":
        found.append("Windows itself is not supported: run qwend inside WSL2")
    if host.gpus and host.driver is None:
        found.append("a card is there but its driver's version cannot be told")
    return found
