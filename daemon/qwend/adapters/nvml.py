"""NVIDIA cards, asked through nvidia-ml-py and the library (libnvidia-ml) that comes with every driver.

A machine without that library has no cards that could be used, and never loads the binding: it weighs more than half of
what an idle daemon may. Source: NVIDIA's NVML API reference.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Iterator
from typing import Any

from qwend.model.host import Gpu

LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")


class NvmlError(Exception):
    """The library says no, in the binding's words."""


class Nvml:
    """The library, opened at the first look and kept: initialising it can take a second, a look takes none."""

    def __init__(self, libraries: tuple[str, ...] = LIBRARIES) -> None:
        self._names = libraries
        self._binding: Any = None

    def cards(self) -> tuple[Gpu, ...]:
        """All cards that this user may use, in PCI order, with what every program together left free."""
        with self._asked() as nvml:
            found = sorted(self._handles(nvml), key=lambda item: item[0])
            return tuple(self._gpu(nvml, index, handle) for index, (_, handle) in enumerate(found))

    def versions(self) -> tuple[str | None, str | None]:
        """The driver's version and the newest CUDA that it supports ("13.0")."""
        with self._asked() as nvml:
            number = nvml.nvmlSystemGetCudaDriverVersion()
            cuda = f"{number // 1000}.{number % 1000 // 10}" if number else None
            return nvml.nvmlSystemGetDriverVersion() or None, cuda

    def open(self) -> bool:
        """Whether the library and the driver are there."""
        if self._binding is not None:
            return True
        library = next(filter(None, map(_loaded, self._names)), None)
        if library is None:
            return False
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlLib = library  # by itself it looks at the first of the names only
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return False
        self._binding = nvml
        return True

    def close(self) -> None:
        """Lets go of the driver; the next look opens it anew."""
        if self._binding is not None:
            with contextlib.suppress(self._binding.NVMLError):
                self._binding.nvmlShutdown()
            self._binding = None

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Any]:
        if self._binding is None:
            raise NvmlError("the driver's library is not open")
        try:
            yield self._binding
        except self._binding.NVMLError as error:
            raise NvmlError(str(error)) from None

    @staticmethod
    def _handles(nvml: Any) -> Iterator[tuple[tuple[int, int, int], Any]]:
        """Place on the bus and handle of each card, in the driver's order."""
        for index in range(nvml.nvmlDeviceGetCount()):
            # Such a card is none that could be used.
            with contextlib.suppress(nvml.NVMLError_NoPermission, nvml.NVMLError_GpuIsLost):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                pci = nvml.nvmlDeviceGetPciInfo(handle)
                yield (pci.domain, pci.bus, pci.device), handle

    @staticmethod
    def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        capability: tuple[int, int] | None = None
        with contextlib.suppress(nvml.NVMLError):
            capability = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        return Gpu(
            index=index,
            uuid=nvml.nvmlDeviceGetUUID(handle),
            name=nvml.nvmlDeviceGetName(handle),
            memory=memory.total,
            memory_free=memory.free,
            capability=capability,
        )


def _loaded(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None
