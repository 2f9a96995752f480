"""The daemon's own folder: private to its user, and known by an id that no other home has."""

from __future__ import annotations

import os
import re
import stat

from qwend.errors import QwendError, UsageError

INSTANCE = "instance"
_ID = re.compile(r"[0-9a-f]{16}")


def make_private(folder: str) -> None:
    """Makes `folder` (and what leads to it) and sees that it belongs to this user alone, mode 0700.

    The folder itself may not be a link where others may write beside it (`/tmp`): whoever placed the link could
    move it. Raises UsageError for a folder of somebody else, or for a file in its place.
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.stat(folder)
        link = os.lstat(folder)
    except FileExistsError:
        raise UsageError(
            f"{folder} is a file, not a folder", code="bad-home", hint="set QWEND_HOME"
        ) from None
    except OSError as error:
        raise UsageError(
            f"cannot make {folder}: {error.strerror}",
            code="bad-home",
            hint="set QWEND_HOME to a folder of yours",
        ) from None
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"{folder} belongs to uid {found.st_uid}, and this is uid {os.geteuid()}",
            code="bad-home",
            hint="each user has a daemon and a folder of their own: set QWEND_HOME",
        )
    if stat.S_ISLNK(link.st_mode) and link.st_uid != os.geteuid():
        raise UsageError(f"{folder} is a link that uid {link.st_uid} made", code="bad-home", hint="remove it")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(folder, 0o700)


def instance_id(home: str) -> str:
    """The id of this home (16 hexadecimal digits), made once. It lies outside the database, so that a database
    that is copied or rebuilt never adopts another home's containers and processes."""
    path = os.path.join(home, INSTANCE)
    found = _read(path)
    if found is None:
        _make(path, os.urandom(8).hex())
        found = _read(path)
    if found is None or not _ID.fullmatch(found):
        raise QwendError(
            f"{path} does not hold an instance id",
            code="bad-instance",
            hint="remove it: what still runs under the old id is then not recognised",
        )
    return found


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(64).strip()
    except FileNotFoundError:
        return None


def _make(path: str, text: str) -> None:
    """Written whole under another name, then linked: of two that do it at once, one wins and both read it."""
    part = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except FileExistsError:
            return
    finally:
        os.unlink(part)
