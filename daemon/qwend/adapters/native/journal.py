"""The journal of exits: supervisord writes it, the daemon reads it from a cursor.

A file of JSON lines. The first is a header with the journal's own id and the last number given out when the
file was rewritten; each further line is an exit with its number `seq`, or `{"ack": SEQ}` for an exit that
somebody recorded. A cursor is `ID:SEQ`: where the file was lost and began anew the id differs, and an old
cursor hides nothing.

Lines are written, not fsynced: they survive the death of any process, and after a power cut the boot id
differs, so that a job whose exit was lost runs again. A stop never waits for the disk.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

Record = dict[str, Any]

COMPACT_BYTES = 64 * 1024
"""Past this size what is acknowledged is cut out, as often as the file has doubled."""


class Journal:
    """The writing side. One writer at a time: it holds the supervisor's lock. Raises OSError at first only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[bytes] = []
        self._fd: int | None = None
        content = _parse(path.read_bytes() if path.exists() else b"")
        self.id: str = content.head["journal"] if content.head else uuid.uuid4().hex
        self.last: int = content.last
        self._open_exits = {record["marker"]: seq for seq, record in content.exits.items()}
        self._rewrite(content.exits.values())

    def has(self, marker: str) -> bool:
        """Whether the marker's exit is here, not yet acknowledged."""
        return marker in self._open_exits

    def append(self, records: Iterable[Record]) -> None:
        """Numbers exits, to be written by `flush`; each names its `marker`."""
        for record in records:
            self.last += 1
            self._pending.append(_line({"seq": self.last, **record}))
            self._open_exits[record["marker"]] = self.last

    def acknowledge(self, cursor: str) -> None:
        """The one exit at this cursor is recorded elsewhere; it need not be kept."""
        journal, _, seq = cursor.partition(":")
        if journal != self.id or int(seq) not in self._open_exits.values():
            return
        self._open_exits = {marker: n for marker, n in self._open_exits.items() if n != int(seq)}
        self._pending.append(_line({"ack": int(seq)}))

    def flush(self) -> bool:
        """Writes what is new; True if there was something and the disk took it. What it refuses is kept."""
        if not self._pending:
            return False
        assert self._fd is not None, "the constructor opens it"
        data = b"".join(self._pending)
        written = 0
        with suppress(OSError):
            written = os.write(self._fd, data)
        if written != len(data):
            os.ftruncate(self._fd, self._size)  # half a line would spoil the next one
            return False
        self._size += written
        self._pending.clear()
        if self._size > self._compact_at:
            with suppress(OSError):  # a full disk: the longer file serves as well
                self._rewrite(_parse(self._path.read_bytes()).exits.values())
        return True

    def _rewrite(self, records: Iterable[Record]) -> None:
        beside = self._path.with_suffix(".new")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(_line({"journal": self.id, "last": self.last}))
            file.writelines(map(_line, records))
            file.flush()
            os.fsync(fd)  # the rename must not be durable before the content is
            os.replace(beside, self._path)
            if self._fd is not None:
                os.close(self._fd)
            self._fd = os.dup(fd)
        self._size = os.fstat(self._fd).st_size
        self._compact_at = max(COMPACT_BYTES, 2 * self._size)


class JournalReader:
    """The reading side; remembers its place, so that a wake costs one short read."""

    def __init__(self, path: Path, since: str = "") -> None:
        self.cursor = since
        self._path = path
        self._file: tuple[int, bytes] | None = None  # inode and header: both change when it is rewritten
        self._offset = 0  # behind the last whole line

    def read(self) -> list[Record]:
        """The exits behind the cursor that are not acknowledged yet; moves the cursor behind them.

        Each record gets its own `cursor`. A journal that does not exist yet has none.
        """
        with suppress(FileNotFoundError), open(self._path, "rb") as file:
            return self._read(file)
        return []

    def _read(self, file: BinaryIO) -> list[Record]:
        line = file.readline()
        head = _parse(line).head
        if head is None:
            return []
        same = (os.fstat(file.fileno()).st_ino, line)
        if self._file == same:
            file.seek(self._offset)
        self._file, self._offset = same, file.tell()
        data = file.read()
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        journal, _, seen = self.cursor.partition(":")
        after = int(seen) if journal == head["journal"] else 0
        fresh = [record for seq, record in _parse(data[:whole]).exits.items() if seq > after]
        for record in fresh:
            record["cursor"] = self.cursor = f"{head['journal']}:{record['seq']}"
        return fresh


class _Content(NamedTuple):
    head: Record | None
    exits: dict[int, Record]  # those without an acknowledgement, by number
    last: int  # the highest number given out


def _parse(data: bytes) -> _Content:
    """What the lines say. A line torn by a power cut says nothing."""
    head: Record | None = None
    exits: dict[int, Record] = {}
    last = 0
    for line in data.splitlines(keepends=True):
        record = None
        with suppress(ValueError):
            record = json.loads(line) if line.endswith(b"\n") else None
        if not isinstance(record, dict):
            continue
        if "journal" in record:
            head = record
            last = record["last"]
        elif "ack" in record:
            exits.pop(record["ack"], None)
        elif "seq" in record:
            exits[record["seq"]] = record
            last = max(last, record["seq"])
    return _Content(head, exits, last)


def _line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
