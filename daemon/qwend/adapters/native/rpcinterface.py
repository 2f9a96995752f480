"""What supervisord runs for qwend: an RPC interface that starts processes without a line of INI text.

Named in supervisord's configuration as `supervisor.rpcinterface_factory`; imports nothing but the standard
library and supervisor. supervisord's own programs, with their pipes, restarts and states, are not used: it
lends its main loop, its unix socket and its signal handling.

Every method takes and returns JSON text: XML-RPC has no integers past 32 bits and no control characters.
The answer is `{"ok": …}` or `{"error": {"code", "message"}}`; no method raises, since supervisord would log
the request, and with it the secrets.

How exits come in: SIGCHLD writes a byte to a pipe that the main loop polls (`set_wakeup_fd`; without it a
child is reaped at the next tick, up to a second late). At the end of every turn, at least once a second, the
loop calls `supervisord.reap()`, which is replaced by ours: `wait4` tells what each child used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor import events, states  # type: ignore[import-untyped]

from qwend.adapters.native.child import CannotStart, Order, start
from qwend.adapters.native.identity import ProcessIdentity, identity_of
from qwend.adapters.native.journal import Journal
from qwend.adapters.native.logcut import cut
from qwend.adapters.native.memory import OomWatch
from qwend.adapters.native.places import Places
from qwend.adapters.native.processes import look, with_marker
from qwend.adapters.native.revision import REVISION

PROTOCOL = 1
"""Raised when an older daemon or supervisord could not understand the newer one."""

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_EVERY_S = 1.0


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Child:
    """A running main process of a step."""

    def __init__(self, request: dict[str, Any], identity: ProcessIdentity) -> None:
        self.marker: str = request["marker"]
        self.identity = identity
        self.log: str = request["log"]
        self.log_max_bytes: int = request["log_max_bytes"]
        self.at = time.time()

    def facts(self) -> dict[str, Any]:
        return {
            "marker": self.marker,
            "pid": self.identity.pid,
            "started": self.identity.started,
            "boot": self.identity.boot,
            "at": self.at,
            "log": self.log,
        }


def answer(method: Callable[..., Any]) -> Callable[..., str]:
    """Makes a method speak JSON, whatever happens in it."""

    @functools.wraps(method)
    def answered(self: Any, *texts: str) -> str:
        try:
            return json.dumps({"ok": method(self, *map(json.loads, texts))})
        except Refused as refusal:
            error = {"code": refusal.code, "message": str(refusal)}
        except Exception as mishap:
            # Only the kind: its text could hold a piece of the request.
            error = {"code": "failed", "message": f"{method.__name__} failed ({type(mishap).__name__})"}
        return json.dumps({"error": error})

    return answered


class NativeInterface:
    """The methods `qwend.*` of the XML-RPC server; names with an underscore are not published."""

    def __init__(self, supervisord: Any, places: Places, alone_s: float) -> None:
        self._supervisord = supervisord
        self._places = places
        self._journal = Journal(places.journal)
        self._children: dict[int, Child] = {}
        self._fading: dict[str, Child] = {}
        self._oom = OomWatch()
        self._next_look = 0.0
        self._leaving = False
        self._alone_s = alone_s
        self._alone_since = time.monotonic()
        self._wake = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._wake.setblocking(False)

    @answer
    def version(self) -> dict[str, Any]:
        """Who serves here. A daemon that asks has come to stay: what an earlier one said in leaving is void."""
        self._leaving = False
        return {"protocol": PROTOCOL, "revision": REVISION, "pid": os.getpid()}

    @answer
    def spawn(self, request: dict[str, Any]) -> dict[str, Any]:
        """Starts a process; a marker starts once: asked again, what it started is told again."""
        marker = request["marker"]
        for child in self._children.values():
            if child.marker == marker:
                return {**child.facts(), "again": True}
        if self._journal.has(marker):
            raise Refused("ended", f"{marker} was started before and has ended")
        request["env"] = with_marker(request["env"], marker)
        try:
            pid = start(Order.of(request))
        except CannotStart as failure:
            raise Refused(f"cannot-start-{failure.stage}", failure.reason) from None
        identity = identity_of(pid)
        assert identity is not None, "a child stays in the table until it is reaped, which is our doing"
        self._children[pid] = child = Child(request, identity)
        self._leaving = False
        return {**child.facts(), "again": False}

    @answer
    def processes(self) -> list[dict[str, Any]]:
        """The main processes that run."""
        return [child.facts() for child in self._children.values()]

    @answer
    def acknowledge(self, cursor: str) -> None:
        """The exit at this cursor is recorded elsewhere and may be forgotten."""
        self._journal.acknowledge(cursor)

    @answer
    def shutdown_when_empty(self) -> bool:
        """Leaves when the last process is gone; a spawn before that cancels it. True if that is now."""
        self._leaving = True
        return self._empty()

    def _turn(self, *_: Any, **__: Any) -> None:
        """One turn of the main loop: at least once a second, and at once when a child ends."""
        try:
            self._reap()
            now = time.monotonic()
            if now >= self._next_look:
                self._next_look = now + _LOOK_EVERY_S
                self._look_after()
            if self._journal.flush():
                self._tell()
        except Exception:
            # Whatever it is, the steps go on and so does the loop.
            self._supervisord.options.logger.error(traceback.format_exc())
        if self._leaving and self._empty():
            self._supervisord.options.mood = states.SupervisorStates.SHUTDOWN

    def _reap(self) -> None:
        records = []
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            child = self._children.pop(pid, None)
            if child is None:
                continue  # an orphan of some step that came to us as subreaper
            records.append(self._exit(child, status, usage))
            self._fading[child.marker] = child
        self._journal.append(records)

    def _exit(self, child: Child, status: int, usage: Any) -> dict[str, Any]:
        code = os.waitstatus_to_exitcode(status)
        killed = code == -signal.SIGKILL
        return {
            **child.facts(),
            "code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            # Linux counts in KiB, macOS in bytes.
            "max_rss": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 6),
            "ended": time.time(),
            "ended_monotonic": time.monotonic(),
            "oom": self._oom.recent() if killed else False,
        }

    def _tell(self) -> None:
        """Wakes the daemon, if one listens: the journal has what it needs either way."""
        with contextlib.suppress(OSError):
            self._wake.sendto(b"exit", os.fspath(self._places.wake))

    def _look_after(self) -> None:
        """What is done every second."""
        self._oom.look()
        for child in (*self._children.values(), *self._fading.values()):
            with contextlib.suppress(OSError):  # moved away, or on a full disk: the step itself goes on
                cut(child.log, child.log_max_bytes)
        self._let_fade()
        if self._children or self._fading or _listens(self._places.wake):
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > self._alone_s:
            self._leaving = True

    def _let_fade(self) -> None:
        """A step's log, and with it the step, goes on as long as anything of its tree is left."""
        if self._fading:
            instance = next(iter(self._fading)).partition(":")[0]
            living = look(instance).markers()
            self._fading = {marker: child for marker, child in self._fading.items() if marker in living}

    def _empty(self) -> bool:
        if not self._children:
            self._let_fade()
        return not self._children and not self._fading


def make_interface(supervisord: Any, lock_fd: str, ready_fd: str, alone_s: str) -> NativeInterface:
    """The factory that supervisord calls, before it serves.

    `lock_fd` is the inherited, locked lock file: it stays locked as long as we live. `ready_fd` is a pipe
    that gets a byte when the main loop runs, and closes without one if it never does. `alone_s` is how long
    we stay with no process to look after and no daemon that listens.
    """
    places = Places.of(Path(supervisord.options.configfile).parent.parent)
    os.chdir(places.folder)
    lock, ready = int(lock_fd), int(ready_fd)
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    if os.getsid(0) != os.getpid():
        os.setsid()
    _keep_to_ourselves()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    interface = NativeInterface(supervisord, places, float(alone_s))
    supervisord.reap = interface._turn

    def running(_: Any) -> None:
        # SIGHUP would make supervisord read its configuration anew and close descriptors that it forgot.
        signal.signal(signal.SIGHUP, lambda *_: None)
        os.write(ready, b"!")
        os.close(ready)

    _wake_up_on_signals(supervisord.options.get_socket_map())
    events.subscribe(events.SupervisorRunningEvent, running)
    return interface


def _keep_to_ourselves() -> None:
    """Nothing that came to us by inheritance is passed on to a step."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for fd in map(int, os.listdir("/dev/fd")):
        if fd > 2:
            with contextlib.suppress(OSError):  # the listing's own is closed already
                os.set_inheritable(fd, False)


def _listens(wake: Path) -> bool:
    """Whether a daemon has bound the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(os.fspath(wake)) == 0


class _Waker:
    """The reading end of the wakeup pipe, in the shape that supervisord's loop knows."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        os.read(self._fd, 4096)

    def handle_error(self) -> None:
        pass


def _wake_up_on_signals(sockets: dict[int, Any]) -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    sockets[read] = _Waker(read)
