"""Which plugin the worker is in, told through shared memory: it can still be read when the worker hangs or is dead.

The file is 512 bytes: a counter (8 bytes, little endian, raised at every change), the length of the text (2 bytes),
the text (`plugin`, a zero byte, what it was asked to do). An empty text means that no plugin code runs.
"""

from __future__ import annotations

import mmap
import tempfile
from typing import BinaryIO, NamedTuple

SIZE = 512
_TEXT = 10


class Crumb(NamedTuple):
    """`beat` changes whenever the worker enters or leaves plugin code."""

    beat: int
    plugin: str
    doing: str

    @property
    def inside(self) -> bool:
        return bool(self.plugin)


class Breadcrumb:
    """The worker's end writes, the daemon's end reads; both map the same file."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, SIZE)
        self._beat = 0

    def enter(self, plugin: str, doing: str) -> None:
        self._write(f"{plugin}\0{doing}".encode("utf-8", "replace")[: SIZE - _TEXT])

    def leave(self) -> None:
        self._write(b"")

    def read(self) -> Crumb:
        raw = self._map[:SIZE]
        length = int.from_bytes(raw[8:_TEXT], "little")
        plugin, _, doing = raw[_TEXT : _TEXT + length].decode("utf-8", "replace").partition("\0")
        return Crumb(int.from_bytes(raw[:8], "little"), plugin, doing)

    def close(self) -> None:
        self._map.close()

    def _write(self, text: bytes) -> None:
        self._beat += 1
        head = self._beat.to_bytes(8, "little") + len(text).to_bytes(2, "little")
        self._map[: _TEXT + len(text)] = head + text


def new_file() -> BinaryIO:
    """A file for a breadcrumb, gone when it is closed."""
    file: BinaryIO = tempfile.TemporaryFile(prefix="qwend-")  # noqa: SIM115 - the caller closes it
    file.write(bytes(SIZE))
    file.flush()
    return file
