"""Ports: leased in one transaction, tried by binding, kept for their service over restarts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from qwend.adapters.listeners import EVERYWHERE, LOOPBACK, ephemeral_range, is_free, who_listens
from qwend.adapters.state_writer import Transaction, freeze
from qwend.errors import OutOfResource, UsageError
from qwend.model.event import Event
from qwend.model.lease import Lease


class PortBook:
    """Who has which port. Works inside a transaction of the state, whose `leases` table has each port and each
    holder once: two daemons on one database could not give a port away twice either.

    A lease is *active* from `take` to `release`; a released one is kept for its holder, until it is given up
    (`sticky`), somebody asks for that very port, or the range is used up.
    """

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last

    def take(self, transaction: Transaction, holder: str, wanted: int | None, avoid: frozenset[int]) -> Lease:
        """The holder's own port where it has one, `wanted` where that is given, else the lowest free of the range.

        A port that the holder has active is given again untried: it is its own service that listens there.
        `avoid` are ports that turned out to be taken. Raises OutOfResource (`port-taken`) naming who has
        `wanted`, or that none is left; UsageError for a number that is no port.
        """
        if wanted is not None and not 1 <= wanted <= 65535:
            raise UsageError(f"{wanted} is not a port", code="bad-port", hint="ports go from 1 to 65535")
        own = transaction.connection.execute(
            "SELECT port, active FROM leases WHERE holder = ?", (holder,)
        ).fetchone()
        if own is not None and own[0] not in avoid and wanted in (None, own[0]):
            if own[1] or is_free(own[0], _addresses(fixed=wanted is not None)):
                return self._give(transaction, holder, own[0])
            if wanted is not None:
                raise _taken(wanted)
        port = (
            self._find(transaction, avoid)
            if wanted is None
            else self._require(transaction, holder, wanted, avoid)
        )
        return self._give(transaction, holder, port)

    def release(self, transaction: Transaction, holder: str, sticky: bool) -> None:
        """Ends the holder's use of its port; with `sticky` the port is not kept for it."""
        row = transaction.connection.execute(
            "SELECT port, active FROM leases WHERE holder = ?", (holder,)
        ).fetchone()
        if row is None:
            return
        if sticky:
            self._drop(transaction, holder, "given up")
        elif row[1]:
            transaction.connection.execute("UPDATE leases SET active = 0 WHERE holder = ?", (holder,))
            transaction.append(freeze(_event("lease.released", holder, row[0], active=False)))

    def exchange(self, transaction: Transaction, one: str, other: str) -> None:
        """Swaps the ports of two holders, in one piece; who has none gets the other's and leaves it without."""
        both = (one, other)
        found = transaction.connection.execute(
            "SELECT port, holder, active, at FROM leases WHERE holder IN (?, ?)", both
        ).fetchall()
        transaction.connection.execute("DELETE FROM leases WHERE holder IN (?, ?)", both)
        left = {one, other}
        for port, holder, active, at in found:
            new = other if holder == one else one
            left.discard(new)
            transaction.connection.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", (port, new, active, at))
            transaction.append(freeze(_event("lease.handed-over", new, port, active=bool(active))))
        for holder in left & {row[1] for row in found}:
            transaction.append(freeze(Event("lease.released", holder, table="lease", row=None)))

    def describe(self, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Leases for people, by port; `listening` says whether anybody listens there now."""
        leases = [
            {**row, "listening": not is_free(row["port"], LOOPBACK)}
            for row in sorted(rows.values(), key=lambda row: row["port"])
        ]
        return {"leases": leases, "range": [self.first, self.last]}

    def _require(self, transaction: Transaction, holder: str, wanted: int, avoid: frozenset[int]) -> int:
        other = transaction.connection.execute(
            "SELECT holder, active FROM leases WHERE port = ? AND holder <> ?", (wanted, holder)
        ).fetchone()
        if other is not None and other[1]:
            raise OutOfResource(
                f"port {wanted} is held by {other[0]}",
                code="port-taken",
                hint=f"stop it (qwend stop {other[0]}), or leave `port:` out and a free one is leased",
            )
        if wanted in avoid or not is_free(wanted, _addresses(fixed=True)):
            raise _taken(wanted)
        if other is not None:
            self._drop(transaction, other[0], f"{holder} asks for this port")
        return wanted

    def _find(self, transaction: Transaction, avoid: frozenset[int]) -> int:
        held = dict(transaction.connection.execute("SELECT port, holder FROM leases ORDER BY at"))
        low, high = ephemeral_range()
        candidates = [port for port in range(self.first, self.last + 1) if port not in avoid]
        # A machine may be set up to use our range for outgoing connections: those ports come last.
        candidates.sort(key=lambda port: (low <= port <= high, port))
        for port in candidates:
            if port not in held and is_free(port, _addresses(fixed=False)):
                return port
        dormant = transaction.connection.execute(
            "SELECT port, holder FROM leases WHERE active = 0 ORDER BY at, port"
        )
        for port, kept_for in dormant.fetchall():
            if (
                self.first <= port <= self.last
                and port not in avoid
                and is_free(port, _addresses(fixed=False))
            ):
                self._drop(transaction, kept_for, "the range is used up")
                return int(port)
        raise OutOfResource(
            f"no port of {self.first}-{self.last} is free: {len(held)} are leased, the rest is taken by other programs",
            code="port-taken",
            hint="stop services that are not needed, or widen port_range in qwend.toml (qwend ports lists them)",
        )

    def _give(self, transaction: Transaction, holder: str, port: int) -> Lease:
        lease = Lease("port", str(port), holder, sticky=True)
        known = transaction.connection.execute(
            "SELECT active FROM leases WHERE holder = ? AND port = ?", (holder, port)
        ).fetchone()
        if known is not None and known[0]:
            return lease
        transaction.connection.execute("DELETE FROM leases WHERE holder = ?", (holder,))
        transaction.connection.execute(
            "INSERT INTO leases VALUES (?, ?, 1, ?)", (port, holder, transaction.clock())
        )
        transaction.append(freeze(_event("lease.taken", holder, port, active=True)))
        return lease

    def _drop(self, transaction: Transaction, holder: str, why: str) -> None:
        transaction.connection.execute("DELETE FROM leases WHERE holder = ?", (holder,))
        transaction.append(freeze(Event("lease.released", holder, table="lease", row=None, reason=why)))


def _event(kind: str, holder: str, port: int, *, active: bool) -> Event:
    row = {"port": port, "holder": holder, "sticky": True, "active": active}
    return Event(kind, holder, table="lease", row=row)


def _addresses(*, fixed: bool) -> tuple[str, ...]:
    """Where a port is tried. One of the range must be free everywhere. A fixed one only where it will be bound,
    since a stranger on another address of the machine is no hindrance; on BSD that takes a look at all too."""
    return LOOPBACK if fixed and sys.platform == "linux" else EVERYWHERE


def taken(port: int) -> str | None:
    """`taken by nginx (pid 812)`, or why else a service could not listen there now; None where it could. Blocks."""
    try:
        return None if is_free(port, _addresses(fixed=True)) else f"taken by {_whom(port)}"
    except UsageError as error:
        return "privileged" if error.code == "port-privileged" else None
    except OSError:
        return None  # it cannot be told: the service itself will meet it


def _whom(port: int) -> str:
    listener = who_listens(port)
    return listener.describe() if listener else "another program, or was a moment ago"


def _taken(port: int) -> OutOfResource:
    return OutOfResource(
        f"port {port} is taken by {_whom(port)}",
        code="port-taken",
        hint="stop that program, or leave `port:` out and a free one is leased",
    )
