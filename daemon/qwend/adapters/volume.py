"""Disk space: which volume a path is on, what is free there, and a reserve for the moment when nothing is."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re

import msgspec

from qwend.core.wording import show
from qwend.errors import OutOfResource
from qwend.model.memory import human

logger = logging.getLogger("qwend.disk")

RESERVE = 8 << 20
"""Bytes of the reserve: some thousand events of a state database, and the manifests of what is under way."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class Volume(msgspec.Struct, frozen=True):
    """Where a path lies: the mount point, its device as the system calls it, and bytes."""

    mount: str
    device: str
    free: int
    total: int


def volume_of(path: str) -> Volume:
    """The volume of a path that need not exist yet."""
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    mount = os.path.realpath(path)
    device = os.stat(mount).st_dev
    while mount != "/" and os.stat(os.path.dirname(mount)).st_dev == device:
        mount = os.path.dirname(mount)
    space = os.statvfs(path)
    return Volume(mount, _device(mount), space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize)


def is_full(error: OSError) -> bool:
    """Whether a failure says that no space (or none of the user's quota) is left."""
    return error.errno in _NO_SPACE


def disk_full(path: str, doing: str, needed: int | None = None) -> OutOfResource:
    """The error for "no space left" at `path` while `doing` something that takes `needed` bytes."""
    try:
        volume = volume_of(path)
    except OSError:
        return OutOfResource(f"no space left for {doing}", code="disk-full")
    where = f"{show(volume.mount)} ({volume.device})" if volume.device else show(volume.mount)
    needs = f", {human(needed)} are needed" if needed is not None else ""
    return OutOfResource(
        f"no space left on {where} for {doing}: {human(volume.free)} are free{needs}",
        code="disk-full",
        hint="`qwend store prune` makes room; a QWEND_HOME on a larger volume holds more",
    )


def require_space(path: str, doing: str, needed: int) -> None:
    """Raises the error of `disk_full` where fewer than `needed` bytes are free."""
    if volume_of(path).free < needed:
        raise disk_full(path, doing, needed)


class Reserve:
    """A file that takes up space so that there is some to give: freed when the disk is full and something has
    to end, taken again when there is room. Its absence is harmless, so nothing here raises."""

    def __init__(self, home: str, size: int = RESERVE) -> None:
        self.path = os.path.join(home, "reserve")
        self.size = size

    @property
    def held(self) -> bool:
        """Whether the space is set aside."""
        try:
            return os.stat(self.path).st_blocks * 512 >= self.size
        except OSError:
            return False

    def take(self) -> bool:
        """Sets the space aside unless that would use most of what is left; True if it is."""
        if self.held:
            return True
        try:
            if volume_of(os.path.dirname(self.path)).free < 3 * self.size:
                return False
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(fd, 0, self.size)
                else:
                    _write_out(fd, self.size)
            finally:
                os.close(fd)
        except OSError as error:
            logger.debug("no reserve: %s", error)
            self.free()
            return False
        return self.held

    def free(self) -> bool:
        """Gives the space back; True if there was any."""
        held = self.held
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        return held


def _write_out(fd: int, size: int) -> None:
    """A file without holes where the system cannot allocate one: bytes that no file system leaves out."""
    block = os.urandom(1 << 16)
    for _ in range(0, size, len(block)):
        os.write(fd, block)


def _device(mount: str) -> str:
    """What is mounted there ("/dev/sda1", "tmpfs"); empty where the system does not tell."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    found = ""
    for line in lines:
        device, _, rest = line.partition(" ")
        where = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), rest.partition(" ")[0])
        if where == mount:
            found = device
    return show(found, 60)
