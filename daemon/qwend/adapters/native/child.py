"""Starts one process. Runs inside supervisord, whose one thread may lend the child its own surroundings.

`posix_spawn` is three times as fast as fork and exec from Python, because no page of the interpreter is
copied and no Python runs in the child. What it has no means for (working folder, umask, limits) is taken on
by the parent for the moment of the start and put back.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

FIRST_SECRET = 3
"""Secrets are handed down as the descriptors 3, 4, … in the order of the request."""

_NOT_THE_PROGRAM = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINVAL}


class CannotStart(Exception):
    """The process could not be started and nothing of it is left. `stage` says at what it failed."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        self.reason = reason


class Order(NamedTuple):
    """What to start. `env` is all it gets; `stdin` and `secrets` are base64; see SpawnRequest."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    limits: dict[str, int]
    umask: int
    stdin: str | None
    secrets: list[str]

    @classmethod
    def of(cls, request: dict[str, Any]) -> Order:
        return cls(*(request[name] for name in cls._fields))


def start(order: Order) -> int:
    """Starts a process in a session of its own; returns its pid once it runs the program.

    stdout and stderr are the log, opened to append and held by the child alone: no pipe ends with us. stdin
    (else /dev/null) and secrets come through memory. Raises CannotStart with the stage (program, secret,
    folder, log, limit, process) and the system's reason. Descriptors of the parent must be close-on-exec.
    """
    with ExitStack() as put_back:
        with _stage("secret"):
            given = [_memory(base64.b64decode(secret), put_back) for secret in order.secrets]
            if order.stdin is None:
                stdin = _open(os.devnull, os.O_RDONLY, put_back)
            else:
                stdin = _memory(base64.b64decode(order.stdin), put_back)
        with _stage("log"):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NOFOLLOW
            log = _open(order.log, flags, put_back)
        with _stage("folder"):
            here = _open(".", os.O_RDONLY | os.O_DIRECTORY, put_back)
            put_back.callback(os.fchdir, here)
            os.chdir(order.cwd)
        with _stage("limit"):
            for name, wanted in order.limits.items():
                _limit(getattr(resource, f"RLIMIT_{name.upper()}"), wanted, put_back)
        put_back.callback(os.umask, os.umask(order.umask))
        return _spawn(_find(order), order, (stdin, log, log, *given))


def _spawn(program: str, order: Order, descriptors: tuple[int, ...]) -> int:
    try:
        return os.posix_spawn(
            program,
            order.argv,
            order.env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(descriptors)],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores these, and exec would pass that on
        )
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        stage = "process" if number in _NOT_THE_PROGRAM else "program"
        raise CannotStart(stage, _reason(error)) from None


def _find(order: Order) -> str:
    if os.sep in order.argv[0]:
        return order.argv[0]  # relative to the working folder, where we are now
    found = shutil.which(order.argv[0], path=order.env.get("PATH", os.defpath))
    if found is None:
        raise CannotStart("program", "it is not on its PATH")
    return found


def _open(path: str, flags: int, put_back: ExitStack) -> int:
    return _above(os.open(path, flags | os.O_CLOEXEC, 0o600), put_back)


def _memory(data: bytes, put_back: ExitStack) -> int:
    """A descriptor to read `data` from that touches no disk."""
    if sys.platform != "linux":
        return _above(_pipe_of(data), put_back)
    # Opened anew through /dev/fd it reads from the start, so a program may read it twice.
    fd = os.memfd_create("qwend", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return _above(fd, put_back)


def _pipe_of(data: bytes) -> int:
    """As memory, for systems that have no memory files: it can be read once, and is bounded."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with os.fdopen(write, "wb", buffering=0) as file:
        if data and file.write(data) != len(data):
            os.close(read)
            raise CannotStart("secret", f"{len(data)} bytes are more than a pipe holds")
    return read


def _above(fd: int, put_back: ExitStack) -> int:
    """The same descriptor at a number that no child's descriptor is to have, closed at the end."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
    os.close(fd)
    put_back.callback(os.close, high)
    return high


def _limit(which: int, wanted: int, put_back: ExitStack) -> None:
    """As much of it as the hard limit gives."""
    before = resource.getrlimit(which)
    hard = before[1]
    put_back.callback(resource.setrlimit, which, before)
    resource.setrlimit(which, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


@contextmanager
def _stage(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise CannotStart(name, _reason(error)) from None


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
