"""Starts supervisord itself: detached, locked, and known to serve before anyone goes on."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
from pathlib import Path

import qwend
from qwend.adapters.native.places import Places
from qwend.errors import Unreachable

ALONE_S = 30.0
"""A supervisord with nothing to look after leaves when no daemon has listened for so long."""

_STARTS_WITHIN_S = 30.0
_LOCK_FD, _READY_FD = 3, 4

_CONFIG = """\
; Written by qwend at every start; a change here is lost.
[supervisord]
nodaemon = true
silent = true
logfile = %(here)s/{log}
logfile_maxbytes = 1MB
logfile_backups = 1
loglevel = warn
pidfile = %(here)s/supervisord.pid
childlogdir = %(here)s
nocleanup = true
minfds = 64
minprocs = 1

[unix_http_server]
file = {socket}
chmod = 0600

[rpcinterface:qwend]
supervisor.rpcinterface_factory = qwend.adapters.native.rpcinterface:make_interface
lock_fd = {lock_fd}
ready_fd = {ready_fd}
alone_s = {alone_s}
"""

_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "XDG_RUNTIME_DIR")


def take_lock(places: Places) -> int | None:
    """The locked lock file, or None if a supervisord holds it (or somebody is just starting one)."""
    fd = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def holder(places: Places) -> str:
    """The pid that the lock's holder wrote there, for people."""
    try:
        return places.lock.read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def start(places: Places, lock: int) -> int:
    """Starts supervisord and returns its pid once its main loop runs. Blocks, a fraction of a second.

    Takes over `lock`: supervisord inherits the open file, so the lock stands exactly as long as it lives.
    Raises Unreachable with its last words if it does not come up.
    """
    try:
        _write_config(places)
        for stale in (places.socket, places.log.with_name("supervisord.pid")):
            stale.unlink(missing_ok=True)
        told, tell = os.pipe()
        try:
            pid = _spawn(places, lock, tell)
        finally:
            os.close(tell)
        with os.fdopen(told, "rb", buffering=0) as file:
            in_time = select.select([file], [], [], _STARTS_WITHIN_S)[0]
            if in_time and file.read(1):
                return pid
        os.kill(pid, signal.SIGKILL)  # our own child, not yet waited for: the pid is its own
        os.waitpid(pid, 0)
    finally:
        os.close(lock)
    raise Unreachable(
        f"the native supervisor did not start: {_last_words(places)}",
        code="supervisor-failed",
        hint=f"its log is {places.log}",
    )


def _write_config(places: Places) -> None:
    if places.socket.parent == places.folder:
        socket = "%(here)s/" + places.socket.name
    else:
        socket = str(places.socket).replace("%", "%%")
    text = _CONFIG.format(
        log=places.log.name, socket=socket, lock_fd=_LOCK_FD, ready_fd=_READY_FD, alone_s=ALONE_S
    )
    fd = os.open(places.config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)


def _spawn(places: Places, lock: int, tell: int) -> int:
    # Numbers above those they are to have, so that none is overwritten before it is copied.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _READY_FD + 1) for fd in (lock, tell)]
    code = "from supervisor.supervisord import main; main()"
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment["PYTHONPATH"] = str(Path(qwend.__file__).parent.parent)
    words = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(_words(places)), words, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        (os.POSIX_SPAWN_DUP2, high[0], _LOCK_FD),
        (os.POSIX_SPAWN_DUP2, high[1], _READY_FD),
    ]
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-c", code, "-c", str(places.config)],
            environment,
            file_actions=actions,
            setsigmask=(),
            setsigdef=(signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD),
        )
    finally:
        for fd in high:
            os.close(fd)


def _words(places: Places) -> Path:
    return places.log.with_name("supervisord.out")


def _last_words(places: Places) -> str:
    for file in (_words(places), places.log):
        try:
            lines = file.read_text(errors="replace").split("\n")
        except OSError:
            continue
        if said := [line.strip() for line in lines if line.strip()]:
            return said[-1]
    return "it said nothing"
