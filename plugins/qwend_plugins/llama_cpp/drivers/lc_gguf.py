"""What a GGUF that was just written holds: read from its header, so that a figure is never a guess.

Runs inside an image beside its neighbours and imports nothing of qwend; standard library only.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any, BinaryIO

TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
"""Tensor type → name, weights in a block, bytes of a block (ggml.h, ggml-common.h)."""
STRING, ARRAY, UINT32 = 8, 9, 4
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def facts(folder: Path) -> dict[str, Any]:
    """`parameters`, `bytes` of the tensors, `bits` per weight, and how many tensors have which type.

    Raises ValueError for a file that is cut short or names a type that is not known here.
    """
    parameters = size = 0
    kinds: dict[str, int] = {}
    for file in sorted(folder.glob("*.gguf")):
        end = 0
        with file.open("rb") as stream:
            tensors, start = _tensors(stream)
        for name, elements, kind, offset in tensors:
            if kind not in TYPES:
                raise ValueError(f"{file.name}: {name} has type {kind}, which is not known here")
            label, block, width = TYPES[kind]
            taken = elements // block * width
            kinds[label] = kinds.get(label, 0) + 1
            parameters, size, end = parameters + elements, size + taken, max(end, offset + taken)
        if start + end > file.stat().st_size:
            raise ValueError(
                f"{file.name} is cut short: {start + end - file.stat().st_size} bytes are missing"
            )
    if not parameters:
        raise ValueError("no tensor was written")
    return {
        "parameters": parameters,
        "bytes": size,
        "bits": round(8 * size / parameters, 3),
        "extra": {"tensor_types": dict(sorted(kinds.items()))},
    }


def _tensors(stream: BinaryIO) -> tuple[list[tuple[str, int, int, int]], int]:
    """Name, number of weights, type and offset of each tensor, and where the data begins.

    A vocabulary is 300,000 strings to step over: the file is mapped, and each costs one look at its length.
    """
    try:
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(data)
    except (struct.error, KeyError, ValueError) as error:
        raise ValueError(f"its header cannot be read: {error}") from None


def _header(data: mmap.mmap) -> tuple[list[tuple[str, int, int, int]], int]:
    at = 0
    length = struct.Struct("<Q").unpack_from

    def number(code: str) -> int:
        nonlocal at
        shape = struct.Struct("<" + code)
        found: int = shape.unpack_from(data, at)[0]
        at += shape.size
        return found

    def text() -> str:
        nonlocal at
        begun = at + 8
        at = begun + length(data, at)[0]
        return data[begun:at].decode("utf-8", "replace")

    def value(kind: int) -> int | None:
        nonlocal at
        if kind == STRING:
            at += 8 + length(data, at)[0]
        elif kind == ARRAY:
            inner, count = number("I"), number("Q")
            if inner in SCALARS:
                at += SCALARS[inner] * count
            elif inner == STRING:
                place = at
                for _ in range(count):
                    place += 8 + length(data, place)[0]
                at = place
            else:
                for _ in range(count):
                    value(inner)
        elif kind == UINT32:
            return number("I")
        else:
            at += SCALARS[kind]
        return None

    magic = data[:4]
    at = 4
    if magic != b"GGUF":
        raise ValueError(f"it begins with {magic!r}, so it is no GGUF")
    _version, tensors, pairs = number("I"), number("Q"), number("Q")
    alignment = 32
    for _ in range(pairs):
        key, kind = text(), number("I")
        found = value(kind)
        if key == "general.alignment" and found:
            alignment = found
    listed = []
    for _ in range(tensors):
        name = text()
        elements = math.prod(number("Q") for _ in range(number("I")))
        listed.append((name, elements, number("I"), number("Q")))
    return listed, -(-at // alignment) * alignment
