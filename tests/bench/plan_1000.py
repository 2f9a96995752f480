"""What planning a recipe of 1,000 steps costs, in CPU milliseconds of each process.

    python tests/bench/plan_1000.py [STEPS]

The recipe is a ladder of quantisations with the engines that ship. Told are: the worker's first plan (reading the
recipe, compiling, sending), the same again with a warm worker and nothing changed, the same without a worker, one
changed step, and the planner alone. A peer in the same run: PyYAML's own loader on the same text.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from qwend.core.planner import Snapshot, plan, realisation
from qwend.core.recipe_text import RecipeFile
from qwend.model.artifact import Pin
from qwend.model.host import Host
from qwend.model.plan import Compiled
from qwend.worker.client import WorkerClient
from qwend.worker.wire import LoadReply, LoadRequest, RecipeRequest

ROOT = Path(__file__).parents[2]
HOST = Host(system="linux", machine="x86_64", cpus=8, memory=1 << 40, python="3.12")
TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")


def recipe(steps: int, changed: str = "Q8_0") -> str:
    """A conversion, then quantisations of it, each with an environment of its own so that no two are one."""
    lines = [
        "name: bench",
        "models: {base: smoke:qwen2}",
        "steps:",
        "  f16: {uses: llama-cpp/convert, from: base}",
    ]
    for number in range(steps - 1):
        kind = changed if number == steps // 2 else TYPES[number % len(TYPES)]
        lines.append(
            f"  q{number}:\n    uses: llama-cpp/quantize\n    from: f16\n"
            f"    with:\n      type: {kind}\n    env:\n      STEP: '{number}'"
        )
    return "\n".join(lines) + "\n"


def metadata(folder: Path) -> None:
    """The entry points of the project file, where it is not installed."""
    import tomllib

    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    info = folder / "bench-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench\nVersion: 0\n")
    lines = [f"{name} = {module}" for name, module in points["qwend.plugins.v1"].items()]
    (info / "entry_points.txt").write_text("[qwend.plugins.v1]\n" + "\n".join(lines) + "\n")


def milliseconds(process: int | None) -> float:
    """CPU time of a process so far, or of this one."""
    if process is None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return (used.ru_utime + used.ru_stime) * 1000
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def worker_of(client: WorkerClient) -> int | None:
    process = client._process
    return process.pid if process is not None else None


async def compiled(client: WorkerClient, text: str) -> Compiled:
    files = (RecipeFile("bench.yaml", text),)
    request = LoadRequest(RecipeRequest(files, str(ROOT)), HOST)
    loaded: LoadReply = await client.load(request)
    pins: dict[str, Pin] = {}
    for source in loaded.sources:
        resolution = source.candidates[0].resolution
        assert resolution is not None
        assert resolution.pin is not None
        pins[source.name] = resolution.pin
    return await client.compile(request, pins)


async def measured(client: WorkerClient, text: str) -> tuple[Compiled, float, float, float]:
    """The compilation; CPU of this process and of the worker, and wall time, all in milliseconds."""
    worker, here, began = worker_of(client), milliseconds(None), time.perf_counter()
    there = milliseconds(worker) if worker else 0.0
    made = await compiled(client, text)
    after = worker_of(client)
    spent = milliseconds(after) - (there if after == worker else 0.0) if after else 0.0
    return made, milliseconds(None) - here, spent, (time.perf_counter() - began) * 1000


def repeated(work: Callable[[], Any], times: int = 10) -> float:
    """Median CPU milliseconds of a piece of work here."""
    found = []
    for _ in range(times):
        began = time.process_time()
        work()
        found.append((time.process_time() - began) * 1000)
    return statistics.median(found)


def there(made: Compiled) -> Snapshot:
    """A world in which all of it is done."""
    return Snapshot(
        host=HOST,
        artifacts=frozenset(step.fingerprint for step in made.steps),
        images=frozenset(realisation(step.runtime, step.image) for step in made.steps if step.image),
        previous={step.name: step for step in made.steps},
    )


async def main(steps: int) -> None:
    client = WorkerClient()
    text = recipe(steps)
    await client.plugins()
    started = milliseconds(worker_of(client))
    rows: list[tuple[str, float, float, float]] = [("worker's start", 0.0, started, 0.0)]
    made, *cost = await measured(client, text)
    rows.append(("first plan", *cost))  # type: ignore[arg-type]
    client._loads.clear()
    client._compiles.clear()
    _, *cost = await measured(client, text)
    rows.append(("again, the daemon forgot", *cost))  # type: ignore[arg-type]
    _, *cost = await measured(client, text)
    rows.append(("again, warm", *cost))  # type: ignore[arg-type]
    await client._stop()
    _, *cost = await measured(client, text)
    rows.append(("again, no worker", *cost))  # type: ignore[arg-type]
    await client.plugins()
    other, *cost = await measured(client, recipe(steps, "Q4_0"))
    rows.append(("one step changed", *cost))  # type: ignore[arg-type]
    await client.close()
    world = there(made)
    assert not plan(made, world).changes
    assert {a.step for a in plan(other, world).actions if a.verb != "keep"} == {f"q{steps // 2}"}
    peer = repeated(lambda: yaml.load(text, Loader=yaml.CSafeLoader), 3)
    size = len(msgspec.json.encode(made))
    print(f"{steps} steps, {len(text) // 1024} KiB of YAML, {size // 1024} KiB compiled; milliseconds")
    print(f"{'':28}{'daemon CPU':>12}{'worker CPU':>12}{'wall':>8}")
    for name, mine, theirs, wall in rows:
        print(f"{name:28}{mine:12.1f}{theirs:12.1f}{wall:8.0f}")
    print(f"{'planner, nothing to do':28}{repeated(lambda: plan(made, world)):12.1f}")
    print(f"{'planner, everything to do':28}{repeated(lambda: plan(made, Snapshot(host=HOST))):12.1f}")
    print(f"{'peer: PyYAML (libyaml)':28}{peer:12.1f}")
    noop = rows[3][1] + repeated(lambda: plan(made, world))
    print(f"ratio of a no-op (daemon + worker + planner) to parsing its YAML once: {noop / peer:.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        metadata(Path(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *(entry for entry in sys.path if entry)])
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
