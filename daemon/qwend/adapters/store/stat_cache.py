"""Digests of files that were read before: a file that is the same by device, inode, size and times is not read
again. A cache: it may be lost at any time, and a disk that is full only makes it forgetful."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time

logger = logging.getLogger("qwend.store")

_VERSION = 1
_FINE_NS = 50_000_000
_COARSE_NS = 2_000_000_000
"""A file system stamps changes to a tick (some milliseconds), old ones to two seconds."""


class StatCache:
    """One for a store. Safe to use from several threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = self._open()

    def get(self, stat: os.stat_result) -> str | None:
        """The sha256 (hex) of the file that has this status, if it is known."""
        key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        with self._lock:
            try:
                row = self._connection.execute(
                    "SELECT sha256 FROM files WHERE dev = ? AND ino = ? AND size = ? AND mtime = ? AND ctime = ?",
                    key,
                ).fetchone()
            except sqlite3.Error as error:
                logger.debug("the digest cache cannot be read: %s", error)
                return None
        return str(row[0]) if row else None

    def put(self, stat: os.stat_result, sha256: str, begun_ns: int) -> None:
        """Keeps a digest; `begun_ns` is the wall clock's time when reading began.

        A file that changed a moment before could change again within the same tick of its time stamp, so its
        digest is not kept: it is read once more the next time. The change time decides: no program can set it.
        """
        coarse = stat.st_ctime_ns % 1_000_000_000 == 0
        if begun_ns - stat.st_ctime_ns < (_COARSE_NS if coarse else _FINE_NS):
            return
        row = (
            stat.st_dev,
            stat.st_ino,
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
            sha256,
            int(time.time()),
        )
        with self._lock:
            try:
                self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.Error as error:
                logger.debug("the digest cache cannot be written: %s", error)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect(self._path)
        except sqlite3.DatabaseError as error:
            logger.warning("the digest cache begins anew: %s", error)
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    os.unlink(self._path + suffix)
        try:
            return self._connect(self._path)
        except sqlite3.DatabaseError:
            return self._connect(":memory:")

    @staticmethod
    def _connect(path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                connection.executescript(
                    "DROP TABLE IF EXISTS files;"
                    "CREATE TABLE files(dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER,"
                    " sha256 TEXT NOT NULL, read INTEGER NOT NULL, PRIMARY KEY(dev, ino)) WITHOUT ROWID;"
                    f"PRAGMA user_version = {_VERSION};"
                )
            connection.execute("SELECT count(*) FROM files WHERE dev = 0").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection
