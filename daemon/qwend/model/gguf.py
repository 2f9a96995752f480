"""Reads headers of GGUF files. Standard library only; the promises of `headers` hold.

Source: GGUF specification, version 3 (ggml, `docs/gguf.md`); sizes of block types as in ggml's `ggml.c`.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from qwend.model.headers import MAX_TEXT, Header, HeaderError, LongArray, Tensor

KEPT_ITEMS = 64
"""Longest array whose values are kept; of longer ones (a vocabulary) only the length is."""
MAX_KEPT = 64 * 1024**2
"""Bytes of text that are kept of one header, over all its keys."""
_MAX_NAME = 1024
_MAX_ITEMS = 1 << 24
_MAX_DIMENSIONS = 8
_MAX_PAIRS = 1 << 16
_MAX_TENSORS = 1 << 20
_BLOCK = 1 << 20

GGML_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
"""Tensor type of GGUF → name, elements in a block, bytes of a block."""

FILE_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0",
    37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0",
}  # fmt: skip
"""`general.file_type` of GGUF → the name that llama-quantize knows it by."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


class _Reader:
    """Forward reads of a file of `size` bytes through one block of memory."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size
        self._block, self._at = b"", 0
        self.at = 0
        self.kept, self.items = 0, 0

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes (at most MAX_TEXT, held by the callers)."""
        if count > self.size - self.at:
            raise HeaderError(
                f"the file ends within {what}: {count} bytes wanted, {self.size - self.at} left", self.at
            )
        start = self.at - self._at
        if start + count > len(self._block):
            self._file.seek(self.at)
            self._block, self._at, start = self._file.read(max(count, _BLOCK)), self.at, 0
            if len(self._block) < count:
                raise HeaderError(f"the file became shorter while {what} was read", self.at)
        self.at += count
        return self._block[start : start + count]

    def skip(self, count: int, what: str) -> None:
        if count > self.size - self.at:
            raise HeaderError(
                f"the file ends within {what}: {count} bytes wanted, {self.size - self.at} left", self.at
            )
        self.at += count

    def number(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def text(self, what: str, most: int = MAX_TEXT) -> str:
        at = self.at
        length = self.number("Q", f"the length of {what}")
        if length > min(most, self.size - self.at):
            raise HeaderError(
                f"{what} claims {length} bytes; {self.size - self.at} are left, {most} the most", at
            )
        self.kept += length
        if self.kept > MAX_KEPT:
            raise HeaderError(f"its texts pass {MAX_KEPT} bytes with {what}", at)
        return self.take(length, what).decode("utf-8", "replace")


def read_gguf(file: BinaryIO, size: int | None = None) -> Header:
    """Read a GGUF header (versions 2 and 3, little endian) and check that its tensors lie within the file.

    `size` is the file's size in bytes; by default it is asked of the file. Raises HeaderError.
    """
    reader = _Reader(file, file.seek(0, os.SEEK_END) if size is None else size)
    magic = reader.take(4, "the magic number")
    if magic != b"GGUF":
        raise HeaderError(f"not a GGUF file: it begins with {magic!r}", 0)
    version = reader.number("I", "the version")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        said = "a big-endian file" if swapped in (2, 3) else f"version {version}"
        raise HeaderError(f"{said} is not supported, only little-endian GGUF 2 and 3", 4)
    tensors = _count(reader, "tensors", _MAX_TENSORS, least=24)
    pairs = _count(reader, "metadata", _MAX_PAIRS, least=13)
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        at = reader.at
        key = reader.text("a key", _MAX_NAME)
        if key in metadata:
            raise HeaderError(f"the key {key!r} stands twice", at)
        metadata[key] = _gguf_value(reader, key)
    return Header(metadata, tuple(_gguf_tensors(reader, tensors, metadata)))


def _count(reader: _Reader, what: str, most: int, least: int) -> int:
    """A count of things that take at least `least` bytes each."""
    at = reader.at
    count: int = reader.number("Q", f"the number of {what}")
    if count > min(most, (reader.size - reader.at) // least):
        raise HeaderError(f"it claims {count} {what}: more than fit into the file or than any model has", at)
    return count


def _gguf_value(reader: _Reader, key: str) -> Any:
    what = f"the value of {key!r}"
    at = reader.at
    kind = reader.number("I", what)
    if kind == _TEXT:
        return reader.text(what)
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind], what)
    if kind != _ARRAY:
        raise HeaderError(f"{what} has the unknown type {kind}", at)
    kind, length = reader.number("I", what), reader.number("Q", what)
    least = 8 if kind == _TEXT else struct.calcsize("<" + _SCALARS[kind]) if kind in _SCALARS else 0
    if not least:
        raise HeaderError(f"{what} is an array of the unknown type {kind}", at)
    if length > (reader.size - reader.at) // least:
        raise HeaderError(f"{what} claims {length} items; {reader.size - reader.at} bytes are left", at)
    reader.items += length
    if reader.items > _MAX_ITEMS:  # walking the texts of an array takes time for each
        raise HeaderError(f"its arrays pass {_MAX_ITEMS} items with {what}", at)
    keep = length <= KEPT_ITEMS
    if kind == _TEXT and keep:
        return [reader.text(what) for _ in range(length)]
    if kind == _TEXT:
        for _ in range(length):
            reader.skip(reader.number("Q", what), what)
        return LongArray(length)
    if not keep:
        reader.skip(length * least, what)
        return LongArray(length)
    return [reader.number(_SCALARS[kind], what) for _ in range(length)]


def _gguf_tensors(reader: _Reader, count: int, metadata: Mapping[str, Any]) -> list[Tensor]:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise HeaderError(f"general.alignment is {alignment!r}, no power of two")
    rows: list[tuple[str, int, tuple[int, ...], int, int]] = []
    seen: set[str] = set()
    for _ in range(count):
        at = reader.at
        name = reader.text("a tensor's name", _MAX_NAME)
        if name in seen:
            raise HeaderError(f"the tensor {name!r} stands twice", at)
        seen.add(name)
        dimensions = reader.number("I", f"the shape of {name!r}")
        if dimensions > _MAX_DIMENSIONS:
            raise HeaderError(f"the tensor {name!r} claims {dimensions} dimensions", at)
        shape = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions, f"the shape of {name!r}"))
        kind, offset = (
            reader.number("I", f"the type of {name!r}"),
            reader.number("Q", f"the offset of {name!r}"),
        )
        if offset % alignment:
            raise HeaderError(f"the tensor {name!r} starts at {offset}, not a multiple of {alignment}", at)
        rows.append((name, kind, shape, offset, at))
    start = -(-reader.at // alignment) * alignment
    tensors = []
    for name, kind, shape, offset, at in rows:
        dtype, block, width = GGML_TYPES.get(kind, (f"type {kind}", 0, 0))
        size = None
        if block:
            if shape and shape[0] % block:
                raise HeaderError(
                    f"the tensor {name!r} has rows of {shape[0]}, not a multiple of {block} ({dtype})", at
                )
            size = math.prod(shape) // block * width
        end = start + offset + (size or 0)
        if end > reader.size:
            raise HeaderError(
                f"the tensor {name!r} ends at byte {end}, the file at {reader.size}: it is cut short", at
            )
        tensors.append(Tensor(name, dtype, shape[::-1], start + offset, size))
    return tensors
