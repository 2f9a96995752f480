"""Where the native supervisor keeps its files."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from qwend import paths

_ROOM_FOR_PID = len(".4194304")  # supervisord binds SOCKET.PID first and renames it


class Places(NamedTuple):
    """The files of one supervisor. `folder` and the sockets' folder are 0700."""

    folder: Path
    config: Path
    lock: Path
    journal: Path
    log: Path
    socket: Path
    wake: Path

    @classmethod
    def of(cls, home: Path) -> Places:
        """The places in `home` (created where missing). Raises OSError."""
        folder = home.absolute() / "supervisor"
        private_folder(folder)
        sockets = socket_folder(folder)
        return cls(
            folder=folder,
            config=folder / "supervisord.conf",
            lock=folder / "lock",
            journal=folder / "exits.jsonl",
            log=folder / "supervisord.log",
            socket=sockets / "rpc.sock",
            wake=sockets / "wake.sock",
        )


def socket_folder(folder: Path, environ: Mapping[str, str] | None = None) -> Path:
    """`folder` itself where socket paths in it are short enough, else one of its own in the runtime folder.

    The choice is noted in `folder`, since the next daemon may have another environment. Raises OSError.
    """
    if _fits(folder):
        return folder
    note = folder / "sockets"
    noted = note.read_text() if note.exists() else ""
    chosen = Path(noted)
    if not chosen.is_absolute() or not chosen.is_dir():
        chosen = Path(paths.runtime(str(folder.parent), environ))
    private_folder(chosen)
    if noted != str(chosen):
        part = note.with_suffix(".part")
        part.write_text(str(chosen))
        os.replace(part, note)
    return chosen


def private_folder(folder: Path) -> None:
    """Makes a folder that only its owner enters, under any umask; refuses one that is somebody else's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise FileExistsError(f"{folder} is not a folder of this user")
    if stat.S_IMODE(info.st_mode) != 0o700:
        folder.chmod(0o700)


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / "wake.sock")) + _ROOM_FOR_PID <= paths.SOCKET_LIMIT
