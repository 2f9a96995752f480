"""What code does while it should only describe: network, processes, writes, reads beyond installed code.

Python's audit hooks see it; one hook is installed for good (there is no way to take it out), and listens only
between `with watched()` and its end, in the thread that said so.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

_NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_PROCESSES = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_local = threading.local()
_installed = threading.Event()


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Collects what the code inside does beyond describing, each deed as a sentence's end (`opens /etc/passwd`)."""
    if not _installed.is_set():
        _installed.set()
        sys.addaudithook(_hear)
    deeds: list[str] = []
    before = getattr(_local, "deeds", None)
    _local.deeds = deeds
    try:
        yield deeds
    finally:
        _local.deeds = before


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    deeds = getattr(_local, "deeds", None)
    if deeds is None or len(deeds) > 20:
        return
    deed = _deed(event, arguments)
    if deed is not None:
        deeds.append(deed)


def _deed(event: str, arguments: tuple[Any, ...]) -> str | None:
    if event == "open":
        return _opened(*arguments)
    if event in _NETWORK:
        return f"uses the network ({event})"
    if event in _PROCESSES:
        return f"starts a process ({arguments[0] if arguments else event!r})"
    if event.startswith(_CHANGES):
        return f"changes files ({event} {arguments[0] if arguments else ''})"
    return None


def _opened(path: Any, mode: Any, flags: Any) -> str | None:
    if isinstance(path, int):
        return None
    name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    if "__pycache__" in name:
        return None
    if isinstance(flags, int) and flags & _WRITING:
        return f"writes {name}"
    return None if _installed_code(name) else f"reads {name}"


def _installed_code(name: str) -> bool:
    """Modules, drivers and image folders of installed packages may be read: they are part of the description."""
    roots = [entry for entry in sys.path if entry] + [sys.prefix, sys.base_prefix]
    roots += [folder for m in list(sys.modules.values()) for folder in getattr(m, "__path__", ())]
    real = os.path.realpath(name)
    return any(real.startswith(os.path.realpath(root) + os.sep) for root in roots)
