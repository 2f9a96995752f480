"""JSON of whatever Python's strings may hold: names of files that are no text are spelled out."""

from __future__ import annotations

from typing import Any

import msgspec


def encode(data: Any) -> bytes:
    """JSON in UTF-8; what is no Unicode (`os.fsdecode` of odd bytes) becomes `\\udcff`."""
    try:
        return msgspec.json.encode(data)
    except UnicodeEncodeError:
        return msgspec.json.encode(printable(msgspec.to_builtins(data)))


def printable(data: Any) -> Any:
    """Plain JSON data with every string made encodable."""
    match data:
        case str():
            return data.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {printable(key): printable(value) for key, value in data.items()}
        case list() | tuple():
            return [printable(item) for item in data]
        case _:
            return data
