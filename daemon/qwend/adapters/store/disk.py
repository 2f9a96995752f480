"""Small things done to disks: durable writes, links that fall back to copies, removal of read-only trees."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES}
"""Another volume, a file system without hard links, or a file that has as many as it may have."""


def sync(path: str) -> None:
    """What was written to a file, or which names a folder has, is on the disk when this returns."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: str, data: bytes, *, staged: str, mode: int = 0o600) -> None:
    """A file that is there whole or not at all, by way of `staged` on the same volume."""
    try:
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(staged)
        raise
    sync(os.path.dirname(path))


def link_or_copy(source: str, target: str) -> bool:
    """A second name for a file, or a copy of it where that cannot be; True if it is a link.

    A copy is on the disk when this returns, with the times of the original, and may be written by its owner.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        copy(source, target)
        return False
    return True


def copy(source: str, target: str) -> None:
    """A copy of its own; nothing is left of it where it fails."""
    try:
        shutil.copyfile(source, target)
        stat = os.stat(source)
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        sync(target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(target)
        raise


def replace_by_link(source: str, target: str) -> bool:
    """Makes `target` a second name for `source`, whole at every moment; False where it cannot be one."""
    beside = f"{target}.{os.urandom(4).hex()}"
    try:
        os.link(source, beside)
    except OSError as error:
        if error.errno in _NO_LINK or error.errno in {errno.ENOENT, errno.ENAMETOOLONG}:
            return False
        raise
    # If both are one file already, rename does nothing and leaves the new name (rename(2)).
    os.rename(beside, target)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    return True


def remove(path: str) -> None:
    """Removes a file or a whole tree, read-only folders included; links are removed and not followed."""
    try:
        if os.path.islink(path) or not os.path.isdir(path):
            os.unlink(path)
            return
    except FileNotFoundError:
        return
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
    shutil.rmtree(path)


def swap(one: str, other: str) -> bool:
    """Exchanges two names in one step; False where the system or file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            done = libc.renamex_np(os.fsencode(one), os.fsencode(other), 2)  # RENAME_SWAP
        else:
            here = ctypes.c_int(-100)  # AT_FDCWD
            done = libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(2))
    except AttributeError:
        return False
    return bool(done == 0)
