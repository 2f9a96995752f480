"""The machine as it is now: a Host snapshot in a few milliseconds."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping

from msgspec.structs import replace

from qwend.adapters import hardware_darwin, hardware_linux
from qwend.adapters.docker_version import engine_gives_gpus, engine_refuses, engine_version
from qwend.adapters.nvml import Nvml, NvmlError
from qwend.model.host import Gpu, Host

logger = logging.getLogger("qwend.hardware")

_SYSTEMS = {"linux": "linux", "darwin": "darwin", "win32": "windows", "cygwin": "windows"}
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}


class HostMachine:
    """`Machine` on this machine.

    What cannot change while the daemon lives (system, CPUs, chip, versions) is looked up once. Free memory,
    free disk, cards and Docker are looked at each time. Whatever cannot be found out is None, never a guess.
    """

    def __init__(self, home: str, environ: Mapping[str, str] | None = None, nvml: Nvml | None = None) -> None:
        """`home` is the folder whose volume's free space counts."""
        self._home = home
        self._environ = os.environ if environ is None else environ
        self._nvml = nvml or Nvml()
        self._static: Host | None = None
        self._gpus_in_docker: tuple[str, bool | None] | None = None
        self._looking = asyncio.Lock()

    async def observe(self) -> Host:
        """A fresh snapshot. Nothing here raises: a part that fails is unknown."""
        async with self._looking:
            docker, host = await asyncio.gather(engine_version(self._environ), asyncio.to_thread(self._look))
            return await self._with_docker(host, docker)

    def _look(self) -> Host:
        if self._static is None:
            self._static = self._find_static()
        gpus, driver, cuda = self._cards()
        total, available = self._memory(self._static.memory)
        return replace(
            self._static,
            memory=total,
            memory_available=available,
            disk_free=free_bytes(self._home),
            gpus=gpus,
            driver=driver,
            cuda=cuda,
        )

    async def _with_docker(self, host: Host, version: str | None) -> Host:
        if version is None:
            return replace(host, docker_lacks=await engine_refuses(self._environ))
        if self._gpus_in_docker is None or self._gpus_in_docker[0] != version:
            # Asking for everything takes Docker ten times as long as its version, and is only wanted with cards.
            gives = await engine_gives_gpus(self._environ) if host.gpus else None
            self._gpus_in_docker = (version, gives)
        return replace(host, docker=version, docker_gpus=self._gpus_in_docker[1])

    def _find_static(self) -> Host:
        system = _SYSTEMS.get(sys.platform, sys.platform)
        machine = os.uname().machine.lower() if hasattr(os, "uname") else ""
        host = Host(
            system,
            _MACHINES.get(machine, machine),
            hardware_linux.cpus() if system == "linux" else os.cpu_count() or 1,
            python=".".join(str(part) for part in sys.version_info[:3]),
        )
        if system == "linux":
            return replace(host, os_version=hardware_linux.os_version())
        if system == "darwin":
            mac = hardware_darwin.mac()
            return replace(
                host,
                machine="arm64" if mac.arm else host.machine,
                cpus=mac.cpus or host.cpus,
                memory=mac.memory,
                chip=mac.chip,
                os_version=mac.os_version,
            )
        return host

    def _memory(self, total: int | None) -> tuple[int | None, int | None]:
        if sys.platform == "linux":
            return hardware_linux.memory()
        return total, hardware_darwin.available_memory() if sys.platform == "darwin" else None

    def _cards(self) -> tuple[tuple[Gpu, ...], str | None, str | None]:
        loaded = hardware_linux.nvidia_driver() if sys.platform == "linux" else None
        try:
            if not self._nvml.open():
                return (), loaded, None
            return (self._nvml.cards(), *self._nvml.versions())
        except NvmlError as error:
            logger.warning("the NVIDIA driver does not answer: %s", error)
            self._nvml.close()
            return (), loaded, None


def free_bytes(path: str) -> int | None:
    """Bytes that this user may still write on the volume of `path`, which need not exist yet."""
    while True:
        try:
            found = os.statvfs(path)
        except FileNotFoundError:
            parent = os.path.dirname(path)
            if parent == path:
                return None
            path = parent
        except OSError:
            return None
        else:
            return found.f_bavail * found.f_frsize
