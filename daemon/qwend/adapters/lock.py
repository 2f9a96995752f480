"""One daemon per home: a lock that the kernel gives back when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from typing import Any

import msgspec

from qwend import __version__
from qwend.errors import QwendError

NAME = "daemon.lock"


class Holder(msgspec.Struct, frozen=True):
    """Who holds the lock, as it said itself."""

    pid: int
    version: str = ""
    started: float = 0.0


class DaemonLock:
    """The right to be the daemon of a home. Children do not inherit it (the descriptor closes on exec)."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd: int | None = fd
        self.path = path

    @classmethod
    def take(cls, home: str, started: float) -> DaemonLock:
        """Takes the lock at once, or raises QwendError (`daemon-running`) that says who holds it.

        `started` is the wall clock's time, told to whoever asks later.
        """
        path = os.path.join(home, NAME)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            other = holder(home)
            who = f"pid {other.pid}, qwend {other.version}" if other else "its pid is not known yet"
            raise QwendError(
                f"another daemon serves {home} ({who})",
                code="daemon-running",
                hint="stop it with `qwend daemon stop`, or set QWEND_HOME to another folder",
            ) from None
        data = msgspec.json.encode(Holder(os.getpid(), __version__, started))
        os.ftruncate(fd, 0)
        os.pwrite(fd, data + b"\n", 0)
        return cls(fd, path)

    def release(self) -> None:
        """Gives the lock back. The file stays: removing it would let two daemons lock two files of one name."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> DaemonLock:
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


def holder(home: str) -> Holder | None:
    """Who wrote the lock file last; None if nobody did or it cannot be read. Advice: it may be dead by now."""
    try:
        with open(os.path.join(home, NAME), "rb") as file:
            return msgspec.json.decode(file.read(4096), type=Holder)
    except (OSError, msgspec.MsgspecError, ValueError):
        return None


def remove_stale_socket(path: str) -> bool:
    """Removes a socket that nobody listens on any more; True if there was one. Call it with the lock held.

    Raises QwendError where somebody does listen (a daemon of another version without this lock), or where
    the path is something else than a socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise QwendError(
            f"{path} is in the way: it is no socket", code="bad-socket", hint="move it elsewhere"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except OSError as error:
            raise QwendError(f"{path}: {error.strerror or error}", code="bad-socket") from None
        else:
            raise QwendError(
                f"somebody listens on {path} without holding the lock of this home",
                code="daemon-running",
                hint="stop that program, or set QWEND_HOME to another folder",
            )
    os.unlink(path)
    return True
