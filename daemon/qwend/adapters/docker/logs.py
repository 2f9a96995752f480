"""A copy of a container's output in a file of ours: bounded, and taken up again where it stopped.

The engine keeps and rotates its own log, so a container is never held up by a slow reader. One thread per
living container copies it. Beside the file lies `.<name>.at` with the engine's time of the last entry that was
copied, and how many entries had that time: a daemon that comes back after a crash asks for what came later.

A stream that is silent while the engine has more is ended, and what it left out is asked for in the same way: an engine
may lose sight of a log that it rotates while somebody follows it (moby/moby#37646).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwend.adapters.docker.connection import Connection
from qwend.adapters.docker.exits import not_started, seconds

logger = logging.getLogger("qwend.docker")

LIMIT = 16 << 20
"""Bytes of a log before its older half is cut off."""

_MARK = 60
_BATCH = 256 << 10
_LAST_WORDS = 1000
"""Bytes at the end of a log in which an init's complaint would stand."""
_SILENT_S = 5.0
"""After so long without an entry it is looked whether the engine has one."""
_SELDOM_S = 60.0
"""Between two such looks at most; they come as seldom as entries do."""
_ENDS_S = 10.0
"""How long a copy takes to end when it is told to, at most."""


class LogFile:
    """Appends entries of the engine's log (`<time> <bytes>`) to a file, and keeps the file below a limit."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path = path
        self.limit = limit
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._file).st_size
        mark = path.with_name(f".{path.name}.at")
        self._mark = os.open(mark, os.O_RDWR | os.O_CREAT, 0o600)
        stamp, _, count = os.pread(self._mark, _MARK, 0).decode("ascii", "replace").strip().partition(" ")
        self.last = stamp
        self._count = int(count) if count.isdigit() else 1
        """Entries of the last time that were copied: Podman tells times in whole seconds."""
        if self.since() is None:
            self.last, self._count = "", 0
        self._resumed, self._skip = self.last, self._count
        self.wrote = time.monotonic()

    def since(self) -> float | None:
        """Seconds since 1970 to ask the engine from, None for the beginning."""
        try:
            return seconds(self.last) - 0.001  # a float holds no nanoseconds; entries told twice are dropped
        except ValueError:
            return None

    def write(self, entries: list[bytes]) -> None:
        """Appends entries; those that were written before are dropped."""
        texts = []
        for entry in entries:
            told, _, text = entry.partition(b" ")
            stamp = told.decode("ascii", "replace")
            if stamp < self._resumed:
                continue
            if stamp == self._resumed and self._skip > 0:
                self._skip -= 1
                continue
            self._count = self._count + 1 if stamp == self.last else 1
            self.last = stamp
            texts.append(text)
        if not texts:
            return
        self.wrote = time.monotonic()
        data = b"".join(texts)
        _write(self._file, data)
        self._size += len(data)
        os.pwrite(self._mark, f"{self.last} {self._count}".ljust(_MARK).encode(), 0)
        if self._size > self.limit:
            self._cut()

    def _cut(self) -> None:
        """Keeps the newer half, from the beginning of a line. In place: who has it open follows on."""
        kept = os.pread(self._file, self.limit // 2, max(0, self._size - self.limit // 2))
        kept = kept[kept.find(b"\n") + 1 :]
        os.ftruncate(self._file, 0)
        _write(self._file, kept)
        self._size = len(kept)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._mark)


class LogCopy:
    """Copies one container's output until it ends, or until `close`."""

    def __init__(self, connection: Connection, container: str, path: str) -> None:
        self._connection = connection
        self._container = container
        self._path = path
        self._stream: Any = None
        self._file: LogFile | None = None
        self._closed = False
        self._looked = 0.0
        self._thread = threading.Thread(target=self._run, name=f"log-{container[:12]}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it still copies: a copy ends with its container, where the engine went away, or by `look`."""
        return self._thread.is_alive()

    @property
    def silent(self) -> bool:
        """Whether it is time for a `look`."""
        if self._file is None:
            return False
        now = time.monotonic()
        quiet = now - self._file.wrote
        return quiet >= _SILENT_S and now - self._looked >= min(_SELDOM_S, quiet / 2)

    def look(self) -> bool:
        """Blocking: whether the engine has an entry that its stream keeps back; then the copy is ended, so that another
        one can ask for it. One that was only slow loses nothing by that."""
        self._looked = time.monotonic()
        if self._file is None:
            return False
        before = self._file.last
        try:
            newest = self._connection.call_blocking(
                lambda client: client.logs(self._container, timestamps=True, tail=1)
            )
        except Exception as error:  # the engine or the container is gone: others notice
            logger.debug("cannot look at the log of %s: %s", self._container[:12], error)
            return False
        if not newest.partition(b" ")[0].decode("ascii", "replace") > before == self._file.last:
            return False
        logger.info("the log of %s goes on and its stream does not: asking anew", self._container[:12])
        self.close()
        return self.join(_ENDS_S)

    def join(self, timeout_s: float) -> bool:
        """Waits for the end; False if it did not come in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        self._closed = True
        try:
            if self._stream is not None:
                self._stream.close()
        except Exception as error:  # ended by the engine at the same moment
            logger.debug("closing a log: %s", error)

    def _run(self) -> None:
        try:
            copy(self._connection, self._container, self._path, follow=True, keep=self._keep)
        except Exception as error:  # the step matters more; the next look takes it up again
            if not self._closed:
                logger.warning("the log of %s is not copied for now: %s", self._container[:12], error)

    def _keep(self, stream: Any, file: LogFile) -> None:
        self._stream, self._file = stream, file


def copy(connection: Connection, container: str, path: str, *, follow: bool, keep: Any = None) -> None:
    """Appends to `path` what the container wrote since the last copy. Blocks; with `follow` until it ends."""
    file = LogFile(Path(path))
    try:
        since = file.since()
        arguments: dict[str, Any] = {"stream": True, "follow": follow, "timestamps": True}
        if since is not None:
            arguments["since"] = since
        stream = connection.call_blocking(lambda client: client.logs(container, **arguments))
        if keep is not None:
            keep(stream, file)
        batch: list[bytes] = []
        size = 0
        for entry in stream:
            batch.append(entry)
            size += len(entry)
            if size > _BATCH or not _more_waits(stream):
                file.write(batch)
                batch, size = [], 0
        file.write(batch)
    finally:
        file.close()


def name_what_did_not_start(inspected: Mapping[str, Any], log: Path) -> None:
    """Ends the log with the name of a program that could not be started, where the engine's init leaves it out."""
    with log.open("rb+") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS))
        last = file.read().decode("utf-8", "replace")
        if (line := not_started(inspected, last)) and line not in last:
            file.write(line.encode())


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _more_waits(stream: Any) -> bool:
    """Whether the engine has sent another entry already, so that a write can wait. A wrong no costs one write; a wrong
    yes would keep back what was read, so the two bytes that close an entry's chunk do not count."""
    try:
        sock = stream._response.raw._fp.fp.raw._sock
        return len(sock.recv(3, socket.MSG_PEEK | socket.MSG_DONTWAIT)) > 2
    except (AttributeError, OSError, ValueError):
        return False
