"""The one writer of the state database: a thread that commits together whatever is asked at the same moment."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from qwend.adapters.json_text import encode
from qwend.adapters.state_schema import Rows, close_database, get_meta, is_out_of_space, set_meta
from qwend.adapters.volume import Reserve, disk_full
from qwend.errors import OutOfResource, QwendError
from qwend.model.event import Event

logger = logging.getLogger("qwend.state")

_TOGETHER = 512
"""At most so many asks in one transaction: the first of them waits for the last."""
_DROPPED_AT_ONCE = 2000

Change = tuple[str, str, dict[str, Any] | None]
News = tuple[Event, str | None]
"""An event, and the recipe that it belongs to."""


class Frozen(msgspec.Struct, frozen=True):
    """An event as it will be written: nobody can change it any more."""

    event: Event
    body: bytes
    row: bytes | None


def freeze(event: Event) -> Frozen:
    """Takes a copy of an event, made of plain JSON. Raises QwendError for one that is no JSON."""
    try:
        body = encode(msgspec.structs.replace(event, seq=0, at=0.0))
        copy = msgspec.json.decode(body, type=Event)
    except (TypeError, ValueError, OverflowError) as error:
        raise QwendError(f"the event {event.kind} cannot be written: {error}", code="bad-event") from None
    return Frozen(copy, body, None if copy.row is None else msgspec.json.encode(copy.row))


class Ask:
    """Something to be done in a transaction. `essential` asks (stops) may use up the reserve.

    `work` raises QwendError to be undone alone; the other asks of the transaction stay.
    """

    __slots__ = ("answer", "error", "essential", "work")

    def __init__(self, work: Callable[[Transaction], Any], essential: bool = False) -> None:
        self.work = work
        self.essential = essential
        self.answer: Any = None
        self.error: BaseException | None = None

    def done(self, changes: list[Change], events: list[News]) -> None:
        """Called in the writer's thread after the commit (or failure) of the whole transaction."""
        raise NotImplementedError


class Transaction:
    """What an ask may do: append events, and use the connection for leases."""

    def __init__(
        self, connection: sqlite3.Connection, clock: Callable[[], float], recipes: dict[str, str]
    ) -> None:
        self.connection = connection
        self.events: list[News] = []
        self.changes: list[Change] = []
        self.clock = clock
        self._recipes = recipes
        self._seq = last_seq(connection)

    def append(self, frozen: Frozen) -> Event:
        """Writes an event and its row; returns it with its number and time."""
        self._seq += 1
        stamped = msgspec.structs.replace(frozen.event, seq=self._seq, at=self.clock())
        recipe = self._recipe(stamped)
        self.connection.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?)", (self._seq, stamped.at, recipe, frozen.body)
        )
        self.events.append((stamped, recipe))
        if stamped.table is not None:
            key = (stamped.table, stamped.subject)
            if frozen.row is None:
                self.connection.execute("DELETE FROM rows WHERE name = ? AND subject = ?", key)
            else:
                self.connection.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (*key, frozen.row))
            self.changes.append((*key, stamped.row))
        return stamped

    def mark(self) -> tuple[int, int, int]:
        self.connection.execute("SAVEPOINT ask")
        return len(self.events), len(self.changes), self._seq

    def back_to(self, mark: tuple[int, int, int]) -> None:
        self.connection.execute("ROLLBACK TO ask")
        del self.events[mark[0] :]
        del self.changes[mark[1] :]
        self._seq = mark[2]

    def _recipe(self, event: Event) -> str | None:
        """Whose event it is: what `events` of one recipe are found by."""
        row = event.row or {}
        for name in (row.get("recipe"), event.data.get("recipe")):
            if isinstance(name, str) and name:
                if event.table == "run":
                    self._recipes[event.subject] = name
                return name
        if event.table == "recipe":
            return event.subject
        if event.run is not None and event.run in self._recipes:
            return self._recipes[event.run]
        recipe, slash, _ = event.subject.partition("/")
        return recipe if slash else None


class Writer(threading.Thread):
    """Owns the connection. `told` hears of every commit, in this thread, before any ask of it is done."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        folder: str,
        rows: Rows,
        reserve: Reserve,
        keep: int,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(name="state", daemon=True)
        self._connection = connection
        self._folder = folder
        self._reserve = reserve
        self._keep = keep
        self._clock = clock
        self._recipes = {run: str(row.get("recipe", "")) for run, row in rows.get("run", {}).items()}
        self._queue: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._count = int(connection.execute("SELECT count(*) FROM events").fetchone()[0])
        self.full = False
        """Whether the last commit failed for want of space."""

    def put(self, ask: Ask) -> None:
        self._queue.put(ask)

    def finish(self) -> None:
        """Commits what was asked so far and closes the database; returns when that is done."""
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        over = False
        while not over:
            batch, over = self._next()
            if batch:
                self._commit(batch)
            self._tidy(final=over)
        close_database(self._connection)

    def _next(self) -> tuple[list[Ask], bool]:
        batch: list[Ask] = []
        ask = self._queue.get()
        while ask is not None:
            batch.append(ask)
            if len(batch) >= _TOGETHER or self._queue.empty():
                return batch, False
            ask = self._queue.get()
        return batch, True

    def _commit(self, batch: list[Ask]) -> None:
        done, failure = self._attempt(batch)
        if isinstance(failure, OutOfResource):
            self.full = True
            vital = [ask for ask in batch if ask.essential]
            if vital and self._reserve.free():
                logger.warning("the disk is full: the reserve is given up so that steps can be stopped")
                _fail([ask for ask in batch if not ask.essential], failure)
                batch = vital
                done, failure = self._attempt(batch)
        elif failure is None:
            if self.full:
                logger.info("there is room on the disk again")
            self.full = False
        if failure is not None or done is None:
            _fail(batch, failure or QwendError("the state was not written", code="state-write"))
            return
        self._count += len(done.events)
        for number, ask in enumerate(batch):
            first = number == 0
            ask.done(done.changes if first else [], done.events if first else [])
        if not self.full:
            self._reserve.take()

    def _attempt(self, batch: list[Ask]) -> tuple[Transaction | None, QwendError | None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._connection, self._clock, self._recipes)
            for ask in batch:
                ask.answer = ask.error = None
                mark = transaction.mark()
                try:
                    ask.answer = ask.work(transaction)
                except sqlite3.Error:
                    raise
                except Exception as error:
                    ask.error = error
                    transaction.back_to(mark)
                self._connection.execute("RELEASE ask")
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            return None, self._explain(error)
        return transaction, None

    def _explain(self, error: sqlite3.Error) -> QwendError:
        if is_out_of_space(error, self._folder):
            return disk_full(self._folder, "the state database")
        logger.error("the state database cannot be written: %s", error)
        return QwendError(f"the state database cannot be written: {error}", code="state-write")

    def _tidy(self, *, final: bool) -> None:
        """Drops the oldest events once there are a quarter more than are kept, a piece at a time; others go first."""
        while self._count > self._keep + self._keep // 4 and (final or self._queue.empty()):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._count -= drop_oldest(self._connection, min(_DROPPED_AT_ONCE, self._count - self._keep))
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                logger.warning("old events are kept: %s", error)
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                return


def _fail(asks: list[Ask], error: QwendError) -> None:
    for ask in asks:
        ask.error = error
        ask.done([], [])


def last_seq(connection: sqlite3.Connection) -> int:
    """The number of the last event, dropped ones included."""
    last = connection.execute("SELECT max(seq) FROM events").fetchone()[0]
    return max(int(last or 0), int(get_meta(connection, "floor") or 0))


def drop_oldest(connection: sqlite3.Connection, count: int) -> int:
    """Moves the projection's beginning behind the `count` oldest events and drops them; returns how many."""
    events = connection.execute("SELECT seq, body FROM events ORDER BY seq LIMIT ?", (count,)).fetchall()
    for _, body in events:
        event = msgspec.json.decode(body, type=Event)
        if event.table is None:
            continue
        if event.row is None:
            connection.execute(
                "DELETE FROM snapshot WHERE name = ? AND subject = ?", (event.table, event.subject)
            )
        else:
            row = encode(event.row)
            connection.execute(
                "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?)", (event.table, event.subject, row)
            )
    if events:
        connection.execute("DELETE FROM events WHERE seq <= ?", (events[-1][0],))
        set_meta(connection, "floor", str(events[-1][0]))
    return len(events)
