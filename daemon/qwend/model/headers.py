"""What model files say in their headers, and the reader of safetensors' (GGUF's is in `gguf`). Standard library only.

Malformed input gives a `HeaderError` that says what is wrong and at which byte, whatever the bytes are; nothing
is allocated on a file's word alone (every count and length is held against the bytes that are there).
Source: the format description of safetensors (huggingface/safetensors, `README.md`).
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeGuard

MAX_TEXT = 16 * 1024**2
"""Longest safetensors header that is read, and longest single text of a GGUF header."""

_SAFETENSORS_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class HeaderError(ValueError):
    """A header that no writer of the format makes: `message` without the file's name, `at` in bytes."""

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message if at is None else f"{message} (at byte {at})")
        self.at = at


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `shape` slowest dimension first, `offset` and `size` in bytes, offset from the file's start.

    `size` is None for a GGUF type that this reader does not know.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int | None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class LongArray:
    """Stands for an array that was too long to keep."""

    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself. `metadata` maps GGUF keys, or safetensors' `__metadata__`, to values."""

    metadata: Mapping[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def parameters(self) -> int:
        """Elements of all tensors together."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.size or 0 for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float | None:
        """Bits per element over all tensors; None if a type is unknown or there are none."""
        if not self.parameters or any(tensor.size is None for tensor in self.tensors):
            return None
        return 8 * self.tensor_bytes / self.parameters

    @property
    def dtypes(self) -> Counter[str]:
        """How many tensors have which type."""
        return Counter(tensor.dtype for tensor in self.tensors)


def read_safetensors(file: BinaryIO, size: int | None = None) -> Header:
    """Read a safetensors header and check that its tensors fill the rest of the file without holes.

    `size` is the file's size in bytes; by default it is asked of the file. Raises HeaderError.
    """
    if size is None:
        size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MAX_TEXT, size - 8):
        raise HeaderError(f"not a safetensors file: its header claims {length} bytes of {size}", 0)
    text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except HeaderError:
        raise
    except (ValueError, RecursionError):
        raise HeaderError("not a safetensors file: its header is no JSON", 8) from None
    if not isinstance(header, dict):
        raise HeaderError("not a safetensors file: its header is no JSON object", 8)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise HeaderError("__metadata__ is no JSON object", 8)
    start = 8 + length
    tensors = [_safetensor(name, entry, start) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size or 0))  # empty ones before what starts there
    at = start
    for tensor in tensors:
        if tensor.offset != at:
            kind = "overlaps the one before it" if tensor.offset < at else "leaves a hole before it"
            raise HeaderError(f"the tensor {tensor.name!r} {kind}", tensor.offset)
        at += tensor.size or 0
    if at != size:
        kind = "it is cut short" if at > size else "there is more behind it"
        raise HeaderError(f"the last tensor ends at byte {at}, the file at {size}: {kind}")
    return Header(metadata, tuple(tensors))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two equal keys they take: a file with such a pair is nobody's."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise HeaderError("a name stands twice in its header", 8)
    return found


def _safetensor(name: str, entry: Any, start: int) -> Tensor:
    where = f"the tensor {name[:200]!r}"
    if not isinstance(entry, dict):
        raise HeaderError(f"{where} is described by no JSON object", 8)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    bits = _SAFETENSORS_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise HeaderError(f"{where} has the unknown type {dtype!r:.40}", 8)
    if not _whole(shape) or len(shape) > 16:
        raise HeaderError(f"{where} has no shape of whole numbers", 8)
    if not _whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderError(f"{where} has no data_offsets [begin, end]", 8)
    size = offsets[1] - offsets[0]
    if math.prod(shape) * bits != size * 8:
        raise HeaderError(f"{where} has {size} bytes, not what {dtype} of shape {shape!r:.80} takes", 8)
    return Tensor(name, str(dtype), tuple(shape), start + offsets[0], size)


def _whole(value: Any) -> TypeGuard[list[int]]:
    """A list of whole numbers from 0 to 2**63."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
