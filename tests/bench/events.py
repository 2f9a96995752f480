"""Durable events per second with many recorders at once, against SQLite with a commit for each event.

    PYTHONPATH=daemon python tests/bench/events.py [--events 20000] [--recorders 64]

Both write the same rows into the same tables, with `synchronous = FULL`: when a recorder goes on, its event is on
the disk. A lone recorder cannot be faster than the disk; the ratio shows what committing together brings.
A rate below the target is exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from qwend.adapters.state import SqliteState
from qwend.adapters.state_schema import close_database, open_database
from qwend.adapters.state_writer import Transaction, freeze
from qwend.model.event import Event

TARGET = 2000
"""Events a second, with concurrent recorders."""


def event(number: int) -> Event:
    """One like those that a service's changes make."""
    name = f"recipe/step{number % 200}"
    row = {
        "key": name, "recipe": "recipe", "step": f"step{number % 200}", "kind": "service", "engine": "llama-cpp/serve",
        "fingerprint": "f" * 64, "run": "01JD" + "0" * 22, "state": "ready", "want": "up", "generation": number,
        "port": 18100 + number % 200, "host": "127.0.0.1", "log": f"/home/user/.local/share/qwend/logs/{name}.log",
    }  # fmt: skip
    return Event("service.ready", name, table="step", row=row, run="01JD" + "0" * 22)


def one_by_one(folder: Path, seconds: float) -> float:
    """Events a second with a commit for each, for `seconds`."""
    connection = open_database(str(folder / "peer.db"))
    begun = time.perf_counter()
    count = 0
    while (spent := time.perf_counter() - begun) < seconds:
        connection.execute("BEGIN IMMEDIATE")
        Transaction(connection, time.time, {}).append(freeze(event(count)))
        connection.execute("COMMIT")
        count += 1
    close_database(connection)
    return count / spent


async def together(folder: Path, events: int, recorders: int) -> tuple[float, float, list[float]]:
    """Events a second of `recorders` that each wait for their own event, CPU seconds, and waits in seconds."""
    state = await SqliteState.open(str(folder / "state.db"))
    numbers = iter(range(events))
    waits: list[float] = []

    async def recorder() -> None:
        for number in numbers:
            asked = time.perf_counter()
            await state.record(event(number))
            waits.append(time.perf_counter() - asked)

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(recorder() for _ in range(recorders)))
    spent, cpu = time.perf_counter() - begun, time.process_time() - cpu
    await state.close()
    return events / spent, cpu, waits


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--recorders", type=int, default=64)
    parser.add_argument(
        "--folder", default=None, help="on the disk to be measured; default: the temporary folder"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qwend-bench-", dir=given.folder) as folder:
        peer = one_by_one(Path(folder), 2.0)
        rate, cpu, waits = asyncio.run(together(Path(folder), given.events, given.recorders))
    waits.sort()
    print(f"one commit an event   {peer:9.0f} events/s")
    print(
        f"{given.recorders:4d} recorders        {rate:9.0f} events/s   {rate / peer:.1f} x the peer (bound {TARGET})"
    )
    print(
        f"wait of a recorder    median {statistics.median(waits) * 1e3:.1f} ms, "
        f"99 % {waits[int(len(waits) * 0.99)] * 1e3:.1f} ms; CPU {cpu / given.events * 1e6:.0f} us an event, "
        f"{os.cpu_count()} CPUs"
    )
    return int(rate < TARGET)


if __name__ == "__main__":
    sys.exit(main())
