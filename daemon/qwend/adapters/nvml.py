"""NVIDIA cards, asked through the driver's own library (libnvidia-ml), which comes with every driver.

Ten functions of a stable C interface, so no binding package has to be installed for a card to be seen.
Source: NVIDIA's NVML API reference. A machine without the library has no cards that could be used.
"""

from __future__ import annotations

import ctypes
from typing import Any

from qwend.model.host import Gpu

LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
_DEVICES = 64
_TEXT = 96


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Pci(ctypes.Structure):
    _fields_ = [
        ("bus_id_legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("pci_device", ctypes.c_uint),
        ("pci_subsystem", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    ]


class NvmlError(Exception):
    """The library says no; `code` is NVML's (9: the driver is not loaded, 15: a card fell off the bus)."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function} gives {code}")
        self.code = code


class Nvml:
    """The library, opened at the first look and kept: initialising it can take a second, a look takes none."""

    def __init__(self, libraries: tuple[str, ...] = LIBRARIES) -> None:
        self._names = libraries
        self._library: ctypes.CDLL | None = None

    def cards(self) -> tuple[Gpu, ...]:
        """All cards that this user may use, in PCI order, with what every program together left free."""
        found = []
        for handle, pci in self._handles():
            memory = _Memory()
            self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
            found.append((pci, self._text("nvmlDeviceGetUUID", handle), handle, memory))
        return tuple(
            Gpu(
                index=index,
                uuid=uuid,
                name=self._text("nvmlDeviceGetName", handle),
                memory=int(memory.total),
                memory_free=int(memory.free),
                capability=self._capability(handle),
            )
            for index, (_, uuid, handle, memory) in enumerate(sorted(found, key=lambda item: item[0]))
        )

    def versions(self) -> tuple[str | None, str | None]:
        """The driver's version and the newest CUDA that it supports ("13.0")."""
        number = ctypes.c_int()
        self._call("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(number))
        cuda = f"{number.value // 1000}.{number.value % 1000 // 10}" if number.value else None
        return self._text("nvmlSystemGetDriverVersion") or None, cuda

    def open(self) -> bool:
        """Whether the library and the driver are there."""
        if self._library is not None:
            return True
        for name in self._names:
            try:
                library = ctypes.CDLL(name)
            except OSError:
                continue
            self._library = library
            try:
                self._call("nvmlInit_v2")
            except NvmlError:
                self._library = None
                continue
            return True
        return False

    def close(self) -> None:
        """Lets go of the driver; the next look opens it anew."""
        if self._library is not None:
            self._library.nvmlShutdown()
            self._library = None

    def _handles(self) -> list[tuple[ctypes.c_void_p, tuple[int, int, int]]]:
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        handles = []
        for index in range(min(count.value, _DEVICES)):
            handle, pci = ctypes.c_void_p(), _Pci()
            try:
                self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
                self._call("nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci))
            except NvmlError as error:
                if error.code in _NOT_OURS:
                    continue
                raise
            handles.append((handle, (pci.domain, pci.bus, pci.device)))
        return handles

    def _capability(self, handle: ctypes.c_void_p) -> tuple[int, int] | None:
        major, minor = ctypes.c_int(), ctypes.c_int()
        try:
            self._call("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
        except NvmlError:
            return None
        return major.value, minor.value

    def _text(self, function: str, *before: Any) -> str:
        buffer = ctypes.create_string_buffer(_TEXT)
        self._call(function, *before, buffer, ctypes.c_uint(_TEXT))
        return buffer.value.decode("utf-8", "replace")

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError:
            raise NvmlError(function, _MISSING) from None
        if code != 0:
            raise NvmlError(function, code)


_MISSING = 13
"""NVML_ERROR_FUNCTION_NOT_FOUND."""
_NOT_OURS = {4, 15}
"""NVML_ERROR_NO_PERMISSION, NVML_ERROR_GPU_IS_LOST: such a card is none that could be used."""
