"""Scenarios on a small disk, run by `small_disk` in a process of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.faults.small_disk import fill

from qwend.adapters.state import SqliteState
from qwend.adapters.store import ArtifactStore
from qwend.adapters.volume import Reserve, disk_full
from qwend.effects import Work
from qwend.errors import OutOfResource
from qwend.model.artifact import Artifact, Facts
from qwend.model.event import Event

MIB = 1 << 20


async def commit(store: ArtifactStore, work: Work, fingerprint: str) -> Artifact:
    return await store.commit(
        work, fingerprint=fingerprint, type="model/gguf", facts=Facts(), metrics={}, provenance={}
    )


def model(work: Work) -> Path:
    return Path(work.output, "model.gguf")


async def prepared(store: ArtifactStore, fingerprint: str, size: int) -> Work:
    work = await store.prepare(fingerprint, keep=False)
    model(work).write_bytes(os.urandom(size))
    return work


async def bad(store: ArtifactStore) -> int:
    (end,) = [item["end"] async for item in store.verify() if "end" in item]
    return len(end["bad"])


async def artifact(disk: Path) -> dict[str, Any]:
    """The disk fills up while an engine writes, and while an output is taken in."""
    result: dict[str, Any] = {"disk": str(disk)}
    store = await ArtifactStore.open(str(disk / "store"))
    first = await commit(store, await prepared(store, "f1", 4 * MIB), "f1")
    # The engine meets the end of the disk: its step failed, what it left is removed.
    work = await store.prepare("f2", keep=False)
    fill(Path(work.output), "model.gguf")
    result["engine"] = "; ".join(disk_full(work.output, "the output of r/f2", 64 * MIB).lines())
    await store.discard("f2")
    result["after the engine"] = sorted(os.listdir(disk / "store/work"))
    # A finished output that has to be copied (it has a name elsewhere) finds no room for the copy.
    mine = disk / "mine.gguf"
    mine.write_bytes(os.urandom(10 * MIB))
    work = await store.prepare("f3", keep=False)
    os.link(mine, model(work))
    filler = fill(disk, leave=2 * MIB)
    try:
        await commit(store, work, "f3")
    except OutOfResource as error:
        result["taking in"] = (error.code, "; ".join(error.lines()))
    result["left"] = [
        sorted(os.listdir(disk / "store" / name)) for name in ("work", "objects", "staging", "manifests")
    ]
    result["first"] = first.digest
    result["found"] = [await store.find("f1") == first, await store.find("f3") is None]
    result["bad"] = await bad(store)
    # There is room again: the same step succeeds.
    filler.unlink()
    again = await commit(store, await prepared(store, "f3", 2 * MIB), "f3")
    result["again"] = await store.find("f3") == again
    await store.close()
    return result


async def finished_output(disk: Path) -> dict[str, Any]:
    """Nothing at all is left when a step ends: the reserve lets its finished output be kept."""
    reserve = Reserve(str(disk), size=MIB)
    store = await ArtifactStore.open(str(disk / "store"), reserve=reserve)
    work = await prepared(store, "f1", 2 * MIB)
    taken = reserve.take()
    fill(disk)
    kept = await commit(store, work, "f1")
    found = await store.find("f1") == kept
    await store.close()
    return {"taken": taken, "found": found, "reserve left": reserve.held}


async def published(disk: Path) -> dict[str, Any]:
    """An artifact of another volume is to appear on the full one."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="qwend-other-") as other:
        store = await ArtifactStore.open(os.path.join(other, "store"))
        made = await commit(store, await prepared(store, "f1", 8 * MIB), "f1")
        fill(disk, leave=4 * MIB)
        said = []
        for put in (store.publish, store.export):
            try:
                await put(made, str(disk / "out"))
            except OutOfResource as error:
                said.append("; ".join(error.lines()))
        left = sorted(os.listdir(disk))
        whole = await store.find("f1") == made
        await store.close()
    return {"said": said, "left": left, "whole": whole}


def running(number: int) -> Event:
    row = {
        "key": f"r/s{number % 9}",
        "recipe": "r",
        "state": "ready",
        "ballast": "x" * 4000,
        "number": number,
    }
    return Event("service.ready", f"r/s{number % 9}", table="step", row=row)


async def state(disk: Path) -> dict[str, Any]:
    """The disk fills up under the state database."""
    result: dict[str, Any] = {}
    book = await SqliteState.open(str(disk / "state.db"))
    await book.record(running(0))
    result["reserve"] = (disk / "reserve").stat().st_size
    filler = fill(disk, leave=400_000)
    number = 1
    while True:
        try:
            await book.record(running(number))
        except OutOfResource as error:
            result["refused"] = (error.code, "; ".join(error.lines()), book.full)
            break
        number += 1
    last = book.rows("step")
    result["number"] = number
    result["rows are as they were"] = max(row["number"] for row in last.values()) == number - 1
    result["readers work"] = [event.subject for event in book.events(after=number - 1)]
    stopped = Event(
        "service.stopped", "r/s0", table="step", row={"key": "r/s0", "recipe": "r", "state": "stopped"}
    )
    await book.record(stopped)
    result["a stop is recorded"] = book.rows("step")["r/s0"]["state"]
    result["the reserve is given"] = (disk / "reserve").exists()
    result["true"] = book.replay() == {"step": book.rows("step")}
    filler.unlink()
    await book.record(running(10_000))
    # The reserve is set aside after the commit of the first, before this one.
    await book.record(running(10_001))
    result["recovers"] = (book.rows("step")["r/s1"]["number"], book.full, (disk / "reserve").exists())
    await book.close()
    book = await SqliteState.open(str(disk / "state.db"))
    result["after a restart"] = book.replay() == {"step": book.rows("step")}
    await book.close()
    return result


async def start_on_a_full_disk(disk: Path) -> dict[str, Any]:
    """The daemon starts while its disk is full: it reads what there is."""
    book = await SqliteState.open(str(disk / "state.db"))
    await book.record(running(0))
    await book.close()
    fill(disk)
    book = await SqliteState.open(str(disk / "state.db"))
    result = {"rows": sorted(book.rows("step")), "events": len(list(book.events()))}
    await book.close()
    return result
