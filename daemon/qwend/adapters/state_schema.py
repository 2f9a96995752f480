"""The state database: its tables, how it is opened, checked, brought forward, and recovered.

`events` is the truth and `rows` its projection. `snapshot` is the projection as it was after event `floor`
(in `meta`), below which events were dropped. `leases` makes ports unique within one transaction.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any, get_args

import msgspec

from qwend import __version__
from qwend.adapters.volume import disk_full, volume_of
from qwend.errors import QwendError
from qwend.model.event import Event, Table

logger = logging.getLogger("qwend.state")

VERSION = 1
_TABLES = """
CREATE TABLE events(
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, recipe TEXT, body BLOB NOT NULL
);
CREATE INDEX events_of_recipe ON events(recipe, seq) WHERE recipe IS NOT NULL;
CREATE TABLE rows(name TEXT NOT NULL, subject TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY(name, subject))
    WITHOUT ROWID;
CREATE TABLE snapshot(name TEXT NOT NULL, subject TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY(name, subject))
    WITHOUT ROWID;
CREATE TABLE leases(
    port INTEGER PRIMARY KEY, holder TEXT NOT NULL UNIQUE, active INTEGER NOT NULL, at REAL NOT NULL
);
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: Mapping[int, Migration] = {}
"""By the version that they start from; each brings a database one version forward, inside a transaction."""

Rows = dict[str, dict[str, dict[str, Any]]]


def open_database(
    path: str, migrations: Mapping[int, Migration] = MIGRATIONS, version: int = VERSION
) -> sqlite3.Connection:
    """A connection for the one writer; the database is made, or checked and brought forward.

    Raises QwendError: `state-corrupt` (a copy was kept), `state-newer`, or `state-open`.
    """
    try:
        connection = connect(path)
        try:
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                _create(connection, version)
            else:
                _require_known(connection, path, version)
                _require_sound(connection)
                _bring_forward(connection, path, migrations, version)
            set_meta(connection, "open", "1")
            set_meta(connection, "written_by", __version__)
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError as error:
        if is_out_of_space(error, path):
            raise disk_full(os.path.dirname(path), "the state database") from None
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:
            raise corrupt(path, str(error)) from None
        raise QwendError(f"cannot open {path}: {error}", code="state-open") from None
    except (sqlite3.DatabaseError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise corrupt(path, str(error)) from None
    return connection


def connect(path: str, *, readonly: bool = False) -> sqlite3.Connection:
    """A plain connection; every transaction is begun by hand. `FULL`: an event is on the disk before its effect."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA query_only = ON" if readonly else "PRAGMA journal_size_limit = 16777216")
    except BaseException:
        connection.close()
        raise
    return connection


def is_out_of_space(error: sqlite3.Error, path: str) -> bool:
    """Whether an error means that the disk is full. SQLite says so for the database itself; for its log's index it
    speaks of an I/O error only, so the disk is asked."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_FULL:
        return True
    try:
        return code & 0xFF == sqlite3.SQLITE_IOERR and volume_of(path).free < 1 << 20
    except OSError:
        return False


def close_database(connection: sqlite3.Connection) -> None:
    """Closes it and notes that it was left in order, so that the next opening need not read all of it."""
    try:
        set_meta(connection, "open", "")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        logger.warning("the state database is closed without its note: %s", error)
    finally:
        connection.close()


def get_meta(connection: sqlite3.Connection, name: str) -> str:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else ""


def set_meta(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def load_rows(connection: sqlite3.Connection, table: str = "rows") -> Rows:
    """A projection as it is stored (`rows` or `snapshot`)."""
    found: Rows = {}
    for name, subject, body in connection.execute(f"SELECT name, subject, body FROM {table}"):
        found.setdefault(name, {})[subject] = msgspec.json.decode(body)
    return found


def corrupt(path: str, why: str) -> QwendError:
    """The error for a database that cannot be trusted; a copy is kept the first time it is met."""
    kept = keep_copy(path, "corrupt")
    return QwendError(
        f"the state database {path} is damaged ({why}); a copy is kept as {os.path.basename(kept)}",
        code="state-corrupt",
        hint="`qwend doctor --rebuild` makes it anew from what runs and what the store holds",
    )


def keep_copy(path: str, word: str) -> str:
    """A copy of the database and its log beside it, named by the time of its last change: once for each state."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(os.path.getmtime(path)))
    kept = f"{path}.{word}-{stamp}"
    for suffix in ("", "-wal"):
        if os.path.exists(path + suffix) and not os.path.exists(kept + suffix):
            shutil.copy2(path + suffix, kept + suffix)
    return kept


def set_aside(path: str) -> str | None:
    """Moves a database out of the way, for a new one to be made; the path where it lies now, None if none was."""
    if not os.path.exists(path):
        return None
    kept = keep_copy(path, "replaced")
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)
    return kept


_SALVAGED = set(get_args(Table)) - {"lease"}


def salvage(path: str) -> list[Event]:
    """What can still be read of the projections of a database that was set aside, as events to be recorded.

    Leases are left out: what still runs is asked for its port. Reading stops at the first bad page of an order
    and goes on from the other end.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for order in ("ASC", "DESC"):
        try:
            connection = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error:
            continue
        try:
            for name, subject, body in connection.execute(
                f"SELECT name, subject, body FROM rows ORDER BY name {order}, subject {order}"
            ):
                row = _decoded(body)
                if row is not None and name in _SALVAGED:
                    found[str(name), str(subject)] = row
        except sqlite3.Error as error:
            logger.warning("%s: read only in part: %s", path, error)
        finally:
            connection.close()
    return [
        Event("state.recovered", subject, table=name, row=row)  # type: ignore[arg-type]
        for (name, subject), row in sorted(found.items())
    ]


def _decoded(body: Any) -> dict[str, Any] | None:
    try:
        row = msgspec.json.decode(body)
    except (msgspec.DecodeError, TypeError, UnicodeDecodeError):
        return None
    return row if isinstance(row, dict) else None


def _create(connection: sqlite3.Connection, version: int) -> None:
    connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {version}; COMMIT;")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _require_known(connection: sqlite3.Connection, path: str, version: int) -> None:
    found = _version(connection)
    if found > version:
        raise QwendError(
            f"{path} was written by qwend {get_meta(connection, 'written_by') or 'of a newer version'} "
            f"(schema {found}); this is qwend {__version__}, which knows schema {version}",
            code="state-newer",
            hint="run that version again, or set QWEND_HOME to another folder",
        )
    if found == 0:
        raise sqlite3.DatabaseError("it holds no tables of qwend's")


def _require_sound(connection: sqlite3.Connection) -> None:
    """After a crash every page is looked at; SQLite itself looks only at those that it happens to read."""
    if get_meta(connection, "open"):
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(str(verdict))
    load_rows(connection)


def _bring_forward(
    connection: sqlite3.Connection, path: str, migrations: Mapping[int, Migration], version: int
) -> None:
    found = _version(connection)
    if found == version:
        return
    kept = f"{path}.schema-{found}"
    with sqlite3.connect(f"{kept}.part") as copy:
        connection.backup(copy)
    copy.close()
    os.replace(f"{kept}.part", kept)
    logger.info(
        "bringing the state database from schema %d to %d; a copy is kept as %s", found, version, kept
    )
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in range(found, version):
            migrations[step](connection)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except (sqlite3.Error, KeyError) as error:
        connection.execute("ROLLBACK")
        raise QwendError(
            f"{path} cannot be brought from schema {found} to {version}: {error}; it is as it was",
            code="state-migration",
            hint="please report this, with `qwend doctor`; the version that wrote it can still read it",
        ) from None
