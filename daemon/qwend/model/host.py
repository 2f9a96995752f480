"""The hardware as it was observed once: an immutable snapshot that never invents an unknown fact."""

from __future__ import annotations

from typing import Literal

import msgspec

Flavour = Literal["cpu", "cuda", "cuda12", "apple"]


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One accelerator. `index` is its place in PCI order; memory in bytes; `capability` as (major, minor)."""

    index: int
    uuid: str
    name: str
    memory: int
    memory_free: int | None = None
    capability: tuple[int, int] | None = None


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine. Bytes; None is unknown.

    `system` is linux, darwin or windows; `machine` x86_64 or arm64; `driver` and `cuda` are the versions
    that the NVIDIA driver reports; `chip` is Apple's name of the SoC; `docker` the engine's version if it
    answers, `docker_gpus` whether it can give a container a card, `docker_lacks` why it cannot make
    our images, if it cannot, or why one that is there may not be asked.
    """

    system: str
    machine: str
    cpus: int
    memory: int | None = None
    memory_available: int | None = None
    disk_free: int | None = None
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    chip: str | None = None
    os_version: str | None = None
    python: str = ""
    docker: str | None = None
    docker_gpus: bool | None = None
    docker_lacks: str | None = None

    def flavours(self) -> tuple[Flavour, ...]:
        """The flavours that can run here, best first."""
        if self.system == "darwin" and self.machine == "arm64":
            return ("apple", "cpu")
        if self.gpus:
            return ("cuda", "cuda12", "cpu")
        return ("cpu",)
