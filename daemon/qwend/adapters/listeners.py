"""Who listens on a port of this machine, and whether one could.

Linux tells in /proc (proc(5), /proc/net/tcp); macOS is asked through `lsof`. Sockets of other users are seen,
their programs only as far as this user may look.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import NamedTuple

from qwend.core.wording import show
from qwend.errors import UsageError

LOOPBACK = ("127.0.0.1", "::1")
EVERYWHERE = (*LOOPBACK, "0.0.0.0", "::")
_LISTEN = "0A"


class Listener(NamedTuple):
    """A listening socket. `pid` and `program` are None where this user may not see them."""

    uid: int | None
    pid: int | None
    program: str | None

    def describe(self) -> str:
        """`nginx (pid 812)`, `a program of uid 33`."""
        if self.pid is not None:
            return f"{show(self.program or 'a program')} (pid {self.pid})"
        return f"a program of uid {self.uid}" if self.uid is not None else "another program"


def is_free(port: int, addresses: Iterable[str] = EVERYWHERE) -> bool:
    """Whether a server could listen on the port at all of these addresses.

    Bound for a moment, with SO_REUSEADDR as servers do: connections in TIME_WAIT do not keep a port. Each
    address is tried, since on BSD a wildcard does not keep others from 127.0.0.1 and on Linux it does.
    An address family that the machine lacks counts as free. Raises UsageError for a privileged port.
    """
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tried.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            if error.errno in {errno.EACCES, errno.EPERM}:
                raise UsageError(
                    f"port {port} needs privileges that this user does not have",
                    code="port-privileged",
                    hint="take one from 1024 up",
                ) from None
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}:
                raise
    return True


def who_listens(port: int) -> Listener | None:
    """Who has the port, as far as it can be told; None if nobody is seen to."""
    if sys.platform == "darwin":
        return _from_lsof(port)
    sockets = dict(_listening(port))
    for pid, inode in _owners(set(sockets)):
        return Listener(sockets[inode], pid, _program(pid))
    return next((Listener(uid, None, None) for uid in sockets.values()), None)


def parse_tcp(text: str, port: int) -> list[tuple[int, int]]:
    """(inode, uid) of the sockets of /proc/net/tcp or tcp6 that listen on a port."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            found.append((int(fields[9]), int(fields[7])))
    return found


def parse_lsof(text: str) -> Listener | None:
    """The first process of `lsof -F pcu` (one field a line: `p812`, `cnginx`, `u33`)."""
    fields = dict(re.findall(r"^([pcu])(.*)$", text, re.MULTILINE)[::-1])
    if not fields.get("p", "").isdigit():
        return None
    uid = fields.get("u", "")
    return Listener(int(uid) if uid.isdigit() else None, int(fields["p"]), fields.get("c"))


def ephemeral_range() -> tuple[int, int]:
    """Ports that the system gives to outgoing connections, both ends included."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            first, last = file.read().split()
            return int(first), int(last)
    except (OSError, ValueError):
        return 49152, 65535  # macOS, and IANA's for everybody else


def _listening(port: int) -> list[tuple[int, int]]:
    found = []
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}", encoding="ascii") as file:
                found += parse_tcp(file.read(), port)
        except OSError:
            continue
    return found


def _owners(inodes: set[int]) -> Iterable[tuple[int, int]]:
    """(pid, inode) of the processes that hold these sockets."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for pid in os.listdir("/proc") if wanted else ():
        if not pid.isdigit():
            continue
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if target in wanted:
                    yield int(pid), wanted[target]
        except OSError:
            continue


def _program(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip() or None
    except OSError:
        return None


def _from_lsof(port: int) -> Listener | None:
    argv = ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpcu"]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_lsof(done.stdout.decode("utf-8", "replace"))
