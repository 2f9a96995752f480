"""`qwend doctor --rebuild`: a new state database from what can still be read of the old one.

Run it with the daemon's lock held and before the daemon opens the state. Artifacts need nothing done: their
manifests are the truth. What runs is found by marker or label when the daemon starts, and asked for its port.
"""

from __future__ import annotations

import os

import msgspec

from qwend.adapters.state import SqliteState
from qwend.adapters.state_schema import salvage, set_aside
from qwend.adapters.store.catalogue import manifests_of


class Rebuilt(msgspec.Struct, frozen=True):
    """What came of it: where the old database lies now (None if there was none), how many rows were read out of it,
    by table, and how many artifacts the store's manifests tell of."""

    kept: str | None
    rows: dict[str, int]
    artifacts: int


async def rebuild(home: str) -> Rebuilt:
    """Sets the state database of a home aside and makes a new one. Raises OutOfResource on a full disk: then the
    old one still lies beside as a copy."""
    path = os.path.join(home, "state.db")
    kept = set_aside(path)
    events = salvage(kept) if kept is not None else []
    state = await SqliteState.open(path)
    try:
        await state.record(*events)
    finally:
        await state.close()
    rows: dict[str, int] = {}
    for event in events:
        if event.table is not None:
            rows[event.table] = rows.get(event.table, 0) + 1
    return Rebuilt(kept, rows, sum(1 for _ in manifests_of(os.path.join(home, "store"))))
