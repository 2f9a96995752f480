"""Reads the metadata of a GGUF file: texts, numbers and switches; lists are passed over. Standard library only.

Source: the specification of GGUF, versions 2 and 3 (little endian).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO

from ollama_start import DriverError

_NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_TEXT, _LIST = 8, 9
_MOST_PAIRS, _MOST_TEXT = 65_536, 64 * 1024**2

Value = str | int | float | bool


def read_metadata(path: Path) -> dict[str, Value]:
    """The metadata of a GGUF. Raises DriverError for a file that is none, or cut short."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except (ValueError, struct.error, OSError) as error:
        raise DriverError(
            f"{path.name} is no whole GGUF: {error}", "qwend store verify finds damage; build it again"
        ) from None


def _read(file: IO[bytes]) -> dict[str, Value]:
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version = _number(file, 4)
    if version not in (2, 3):
        raise ValueError(f"version {version} is not known")
    _number(file, 10)
    pairs = int(_number(file, 10))
    if pairs > _MOST_PAIRS:
        raise ValueError(f"{pairs} entries are too many")
    found: dict[str, Value] = {}
    for _ in range(pairs):
        key = _text(file)
        value = _value(file, int(_number(file, 4)))
        if value is not None:
            found[key] = value
    return found


def _value(file: IO[bytes], kind: int) -> Value | None:
    if kind == _TEXT:
        return _text(file)
    if kind != _LIST:
        return _number(file, kind)
    item, count = int(_number(file, 4)), int(_number(file, 10))
    if item in _NUMBERS:
        file.seek(count * struct.calcsize(_NUMBERS[item]), 1)
        return None
    for _ in range(count):
        if item == _TEXT:
            file.seek(int(_number(file, 10)), 1)
        else:
            _value(file, item)
    return None


def _number(file: IO[bytes], kind: int) -> int | float | bool:
    form = _NUMBERS.get(kind)
    if form is None:
        raise ValueError(f"type {kind} is not known")
    (value,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return value  # type: ignore[no-any-return]


def _text(file: IO[bytes]) -> str:
    length = int(_number(file, 10))
    if length > _MOST_TEXT:
        raise ValueError("a text is too long")
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it ends in the middle of a text")
    return data.decode("utf-8", "replace")
