"""What one value of `qwend.toml` must be: each function takes a value and the file's folder, or says what it wants."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

RUNTIMES = ("auto", "docker", "native", "kubernetes")
PORT_RANGE = (18100, 18999)
"""Below every system's ephemeral range (Linux 32768-60999, macOS and IANA 49152-65535), so that no outgoing
connection ever sits on one of them, and below Kubernetes' node ports (30000-32767); above the ports that need
privileges and those that development servers use by habit (3000 to 11434)."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_RANGE = re.compile(r"(\d{1,5})\s*-\s*(\d{1,5})")
_URL = re.compile(r"https?://[^\s/]+\S*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ARCHITECTURES = re.compile(r"({0})(;{0})*".format(r"[0-9]{2,3}[af]?(-real|-virtual)?"))


class Wrong(Exception):
    """A value is none of its key; the message says what one is."""


Check = Callable[[Any, str], Any]
"""Of a value as TOML gives it, and the file's folder: the value that the settings keep. Raises Wrong."""


def text(value: Any, folder: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise Wrong(f"a text in quotes, not {value!r}")
    return value


def texts(value: Any, folder: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Wrong(f'a list of texts (["…"]), not {value!r}')
    return tuple(text(item, folder) for item in value)


def truth(value: Any, folder: str) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"true or false, not {value!r}")
    return value


def seconds(value: Any, folder: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Wrong(f"a number of seconds, at least 1, not {value!r}")
    return value


def url(value: Any, folder: str) -> str:
    if not isinstance(value, str) or not _URL.fullmatch(value):
        raise Wrong(f"an address that begins with https:// (or http://), not {value!r}")
    return value.rstrip("/")


def file(value: Any, folder: str) -> str:
    path = os.path.join(folder, os.path.expanduser(text(value, folder)))
    if not os.path.isfile(path):
        raise Wrong(f"there is no file {path}")
    return os.path.abspath(path)


def places(value: Any, folder: str) -> tuple[str, ...]:
    """Wheelhouses: an address stays, a path becomes absolute."""
    return tuple(
        item if "://" in item else os.path.abspath(os.path.join(folder, os.path.expanduser(item)))
        for item in texts(value, folder)
    )


def digest(value: Any, folder: str) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise Wrong(f"sha256: and 64 hexadecimal digits, not {value!r}")
    return value


def architectures(value: Any, folder: str) -> str:
    """As CMAKE_CUDA_ARCHITECTURES takes them. Its words native and all are no answer: a build sees no card."""
    if not isinstance(value, str) or not _ARCHITECTURES.fullmatch(value):
        raise Wrong(
            f'compute capabilities without their dot, such as "89-real" or "86-real;89-real", not {value!r}'
        )
    return value


def bases(value: Any, folder: str) -> dict[str, tuple[str, str | None]]:
    """Each is pinned: by its digest, or a local one by its id."""
    example = '{ollama = {base = "registry.example/ollama@sha256:…"}}'
    if not isinstance(value, dict):
        raise Wrong(f"a table such as {example}, not {value!r}")
    found = {}
    for name, said in value.items():
        if not isinstance(said, dict) or not {"base"} <= said.keys() <= {"base", "base_id"}:
            raise Wrong(f"{name}: base and, of a local one, base_id, as in {example}")
        reference, id_ = text(said["base"], folder), said.get("base_id")
        if id_ is None and not re.search(r"@sha256:[0-9a-f]{64}\Z", reference):
            raise Wrong(
                f"{name}: a base with its digest (@sha256:…), or one of this machine with its base_id"
            )
        found[name] = (reference, None if id_ is None else digest(id_, folder))
    return found


def runtime(value: Any, folder: str) -> str:
    if value not in RUNTIMES:
        from qwend.core.suggest import did_you_mean

        raise Wrong(f"one of {', '.join(RUNTIMES)}, not {value!r}{did_you_mean(str(value), RUNTIMES)}")
    return str(value)


def ports(value: Any, folder: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Wrong(f'a range of ports such as "{PORT_RANGE[0]}-{PORT_RANGE[1]}", not {value!r}')
    first, last = int(match[1]), int(match[2])
    if not 1024 <= first <= last <= 65535:
        raise Wrong(f"ports from 1024 to 65535, the lower first, not {value!r}")
    return first, last


def size(value: Any, folder: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or not float(match[1]):
        raise Wrong(f'a size such as "200 GiB" or "500 GB", not {value!r}')
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " kmgt".index(match[2].lower() or " "))
