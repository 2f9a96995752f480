"""Durable events and their projections, in SQLite: `State` for the reconciler, a reader for everybody else."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import msgspec

from qwend.adapters.ports import PortBook
from qwend.adapters.state_feed import Feed
from qwend.adapters.state_schema import Rows, connect, load_rows, open_database
from qwend.adapters.state_writer import Ask, Change, News, Transaction, Writer, freeze
from qwend.adapters.volume import Reserve
from qwend.core.redact import Redactor
from qwend.errors import OutOfResource, QwendError
from qwend.model.event import Event
from qwend.model.lease import Lease
from qwend.setting_values import PORT_RANGE

KEEP = 50_000
"""So many events are kept, and up to a quarter more."""
_CHUNK = 500
_ENDS = (".stopping", ".stopped", ".cancelled", ".killed", ".released", ".failed")


class _Waiter(Ask):
    """An ask of a coroutine: its answer is brought back to the loop in which it was asked."""

    __slots__ = ("_future", "_loop", "_state")

    def __init__(self, state: SqliteState, work: Callable[[Transaction], Any], essential: bool) -> None:
        super().__init__(work, essential)
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Any] = self._loop.create_future()

    def done(self, changes: list[Change], events: list[News]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrive, changes, events)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._state.apply(changes, events)

    def _arrive(self, changes: list[Change], events: list[News]) -> None:
        self._state.apply(changes, events)
        if self._future.done():
            return
        if self.error is not None:
            self._future.set_exception(self.error)
        else:
            self._future.set_result(self.answer)

    async def result(self) -> Any:
        return await self._future


class SqliteState:
    """`State` on `PATH/state.db`. One per home: the daemon's lock sees to that.

    `record` and the leases return when the change is on the disk; `rows` looks at a mirror in memory, which
    holds a change from that moment on. Made by `await SqliteState.open(...)`, ended by `await close()`.
    """

    def __init__(self, path: str, writer: Writer, rows: Rows, book: PortBook) -> None:
        self._path = path
        self._writer = writer
        self._rows = rows
        self._book = book
        self._feeds: set[Feed] = set()
        self._reader: sqlite3.Connection | None = None
        self._reading = threading.Lock()
        self._closed = False
        self._redactor = Redactor()

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        port_range: tuple[int, int] = PORT_RANGE,
        keep: int = KEEP,
        redactor: Redactor | None = None,
        clock: Callable[[], float] = time.time,
    ) -> SqliteState:
        """Opens or makes the database. Raises QwendError where it is damaged or of a newer version.

        `redactor` keeps secrets out of what events say to people (`reason`, `data`); rows are data that
        steps are started from, and stay as they are but for their reason.
        """
        state = await asyncio.to_thread(cls._open, path, port_range, keep, clock)
        state._redactor = redactor or Redactor()
        return state

    @classmethod
    def _open(cls, path: str, ports: tuple[int, int], keep: int, clock: Callable[[], float]) -> SqliteState:
        folder = os.path.dirname(os.path.abspath(path))
        reserve = Reserve(folder)
        try:
            connection = open_database(path)
        except OutOfResource:
            if not reserve.free():
                raise
            connection = open_database(path)
        os.chmod(path, 0o600)
        rows = load_rows(connection)
        writer = Writer(connection, folder, rows, reserve, keep, clock)
        reserve.take()
        writer.start()
        return cls(path, writer, rows, PortBook(*ports))

    @property
    def full(self) -> bool:
        """Whether the disk is: writes fail until there is room again."""
        return self._writer.full

    async def record(self, *events: Event) -> tuple[Event, ...]:
        """The events with number and time, once they are durable. Raises OutOfResource where the disk is full;
        nothing of what was asked together is then recorded, and `rows` is as before."""
        if not events:
            return ()
        # A snapshot now: the caller may go on changing its rows while the writer is busy.
        frozen = tuple(freeze(self._redacted(event)) for event in events)
        essential = all(event.kind.endswith(_ENDS) for event in events)
        answer: tuple[Event, ...] = await self._ask(
            lambda transaction: tuple(transaction.append(one) for one in frozen), essential
        )
        return answer

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """A projection, by subject: a new mapping of rows that must not be changed."""
        return dict(self._rows.get(table, {}))

    async def lease_port(self, holder: str, wanted: int | None, avoid: Iterable[int] = ()) -> Lease:
        """A port for `holder`, kept over restarts; see `ports.PortBook.take`."""
        shunned = frozenset(avoid)
        lease: Lease = await self._ask(
            lambda transaction: self._book.take(transaction, holder, wanted, shunned)
        )
        return lease

    async def release(self, holder: str, sticky: bool = False) -> None:
        """The holder's port is no longer in use; with `sticky` it is no longer kept for it either."""
        await self._ask(lambda transaction: self._book.release(transaction, holder, sticky), essential=True)

    async def exchange(self, one: str, other: str) -> None:
        """Each of two holders has the port of the other: a service and the one that replaces it."""
        await self._ask(lambda transaction: self._book.exchange(transaction, one, other))

    def describe(self) -> dict[str, Any]:
        """Leases and the range, for people: `{"leases": [{port, holder, sticky, active, listening}], "range": []}`."""
        return self._book.describe(self._rows.get("lease", {}))

    def events(self, after: int = 0, recipe: str | None = None, limit: int | None = None) -> Iterator[Event]:
        """Events behind `after`, oldest first, of one recipe if it is given; read in pieces as they are asked for."""
        left = limit
        while left is None or left > 0:
            piece = self._read(after, recipe, _CHUNK if left is None else min(_CHUNK, left))
            yield from piece
            if len(piece) < _CHUNK:
                return
            after = piece[-1].seq
            left = None if left is None else left - len(piece)

    def subscribe(self, after: int | None = None, recipe: str | None = None) -> AsyncIterator[Event]:
        """Events behind `after` (default: from now on) and then each as it is committed, without end.

        None is lost to a slow reader: what it did not take in time it reads from the disk. End it with `aclose`.
        """
        feed = Feed(self._read, self._feeds, after, recipe)
        self._feeds.add(feed)
        return feed.run()

    async def close(self) -> None:
        """Everything that was asked is on the disk, and the database closed."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._writer.finish)
        await asyncio.sleep(0)  # what the writer did last arrives before anybody looks
        for feed in tuple(self._feeds):
            feed.end()
        with self._reading:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def replay(self) -> Rows:
        """The projections made anew from the events: equal to all `rows`, or something is wrong."""
        with self._reading:
            connection = self._open_reader()
            connection.execute("BEGIN")
            try:
                found = load_rows(connection, "snapshot")
                for (body,) in connection.execute("SELECT body FROM events ORDER BY seq"):
                    event = msgspec.json.decode(body, type=Event)
                    if event.table is not None and event.row is None:
                        found.get(event.table, {}).pop(event.subject, None)
                    elif event.table is not None and event.row is not None:
                        found.setdefault(event.table, {})[event.subject] = event.row
            finally:
                connection.execute("ROLLBACK")
        return {name: rows for name, rows in found.items() if rows}

    def apply(self, changes: list[Change], events: list[News]) -> None:
        """What was committed enters the mirror and is told. Called in the loop, once for each commit, in order."""
        for table, subject, row in changes:
            rows = self._rows.setdefault(table, {})
            if row is None:
                rows.pop(subject, None)
            else:
                rows[subject] = row
        for feed in tuple(self._feeds):
            feed.tell(events)

    async def _ask(self, work: Callable[[Transaction], Any], essential: bool = False) -> Any:
        if self._closed:
            raise QwendError("the state is closed: the daemon is ending", code="state-closed")
        waiter = _Waiter(self, work, essential)
        self._writer.put(waiter)
        return await waiter.result()

    def _redacted(self, event: Event) -> Event:
        row = event.row
        if row is not None and isinstance(reason := row.get("reason"), str) and reason:
            row = {**row, "reason": self._redactor.text(reason)}
        return msgspec.structs.replace(
            event,
            reason=event.reason and self._redactor.text(event.reason),
            data=self._redactor.value(event.data),
            row=row,
        )

    def _read(self, after: int, recipe: str | None, limit: int) -> list[Event]:
        where, values = "seq > ?", [after]
        if recipe is not None:
            where, values = "seq > ? AND recipe = ?", [after, recipe]  # type: ignore[list-item]
        with self._reading:
            rows = self._open_reader().execute(
                f"SELECT seq, at, body FROM events WHERE {where} ORDER BY seq LIMIT ?", (*values, limit)
            )
            return [
                msgspec.structs.replace(msgspec.json.decode(body, type=Event), seq=seq, at=at)
                for seq, at, body in rows
            ]

    def _open_reader(self) -> sqlite3.Connection:
        if self._reader is None:
            if self._closed:
                raise QwendError("the state is closed: the daemon is ending", code="state-closed")
            self._reader = connect(self._path, readonly=True)
        return self._reader
