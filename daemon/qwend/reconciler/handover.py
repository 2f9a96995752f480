"""Replaces a service without a gap: the new one starts beside the old one, and takes its place once it is ready.

Until then it is a step of its own (`chat@next`). The change of places is one record and happens between two signals
of both: what was `chat` becomes `chat@next` and ends, what was `chat@next` is `chat` from now on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from qwend.core.signals import Go, Stop
from qwend.errors import QwendError
from qwend.model.event import Event
from qwend.model.plan import CompiledStep
from qwend.model.service import HEIR, Step

if TYPE_CHECKING:
    from qwend.reconciler.mailbox import Mailbox
    from qwend.reconciler.reconciler import Reconciler

log = logging.getLogger(__name__)

_NO_ROOM = {"out-of-memory", "out-of-resource"}


async def roll(
    reconciler: Reconciler, box: Mailbox, step: CompiledStep, producers: dict[str, str], run: str, why: str
) -> tuple[Step | None, str]:
    """Replaces what `box` runs by `step`. Returns the row of the new one that could not be had while the old one
    goes on (None if it took over), and why there is no room for both, where that is it: then nothing changed."""
    heir = _heir(reconciler, box, step, producers, run)
    try:
        await heir.post(Go())
        row = await heir.until(lambda row: row.settled or (row.state == "waiting" and bool(row.reason)))
        if row.state == "ready":
            await box.within(lambda: heir.within(lambda: _change_places(box, heir)))
            row = box.row
    finally:
        await forget(reconciler, heir, why)
    if row.key == box.key:
        return None, ""
    return row, row.reason if row.state == "waiting" or row.code in _NO_ROOM else ""


async def forget(reconciler: Reconciler, box: Mailbox, why: str) -> None:
    """Ends what a mailbox holds, and forgets that there was one."""
    box.post(Stop(why))
    await box.until(lambda row: row.settled and row.state != "ready")
    await box.close()
    reconciler.boxes.pop(box.key, None)
    world = reconciler.world
    event = Event("service.gone", box.key, "step", None, run=box.row.run, reason=why)
    await world.desk.give_back(box.key, port=True)
    try:
        await world.record(event)
    except QwendError as error:
        log.warning("%s: %s", box.key, error)
        world.owe(event)


def _heir(
    reconciler: Reconciler, box: Mailbox, step: CompiledStep, producers: dict[str, str], run: str
) -> Mailbox:
    old = box.row
    row = Step(
        f"{old.key}{HEIR}",
        old.recipe,
        f"{old.step}{HEIR}",
        "service",
        step.engine,
        step.fingerprint,
        run,
        runtime=step.runtime,
        image=step.image.name if step.image else "",
        host=step.policy.host,
        generation=old.generation,  # its start is the next one: no two starts of a step share a number
    )
    heir = reconciler.boxes[row.key] = type(box)(row, step, producers, box.world)
    return heir


async def _change_places(box: Mailbox, heir: Mailbox) -> None:
    """Both mailboxes stand still."""
    if heir.row.state != "ready":
        return  # it died at the last moment
    old, new = _as(heir, box.row), _as(box, heir.row)
    world = box.world
    await world.state.exchange(box.key, heir.key)
    rows = [
        Event(f"service.{what}", row.key, "step", msgspec.to_builtins(row), run=row.run, reason=why)
        for row, what, why in (
            (new, "took-over", f"it took over on port {new.port}"),
            (old, "changed", "replaced"),
        )
    ]
    try:
        await world.record(*rows)
    except QwendError:
        await world.state.exchange(box.key, heir.key)
        raise
    world.desk.exchange(box.key, heir.key)
    box.compiled, heir.compiled = heir.compiled, box.compiled
    box.producers, heir.producers = heir.producers, box.producers
    box.show(new)
    heir.show(old)


def _as(box: Mailbox, row: Step) -> Step:
    """The row under the other's name; its process goes on carrying the name that it was born with."""
    born = row.born or row.step
    mine = box.row
    return msgspec.structs.replace(row, key=mine.key, step=mine.step, born="" if born == mine.step else born)
