"""The quickstart in containers against the quickstart as native processes, without the builds.

    python tests/bench/container_overhead.py [ROUNDS]

A round makes the smoke model, serves it, waits for an answer and takes it down, once in each runtime, in turns. The
median of the ratios has to stay within the bound (1.2), else the exit code is 1. Needs an engine with the local base
image (images/make-base); where there is none it says so and ends with 0.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.house import ROOT, House, house, tell
from tests.conftest import LACKS
from tests.e2e.conftest import local_base

BOUND = 1.2
RUNTIMES = ("native", "docker")
RECIPE = str(ROOT / "recipes" / "quickstart.yaml")
TOKENS = 32


def quickstart(qwend: House, runtime: str) -> dict[str, float]:
    """Seconds of one round: until it is ready, for an answer, until it is gone."""
    begun = time.monotonic()
    qwend.run("up", "-d", "--smoke", "--runtime", runtime, "--force", "base", "--force", "chat", RECIPE)
    ready = time.monotonic()
    answer(next(row["url"] for row in json.loads(qwend.run("ps", "--json")) if row["url"]))
    answered = time.monotonic()
    qwend.run("down", "-p", "quickstart")
    return {"up": ready - begun, "answer": answered - ready, "down": time.monotonic() - answered}


def answer(url: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": TOKENS, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        reply.read()


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    base = local_base() if LACKS["docker"]() is None else None
    if base is None:
        print(f"left out: {LACKS['docker']() or 'the engine has no local base image (images/make-base)'}")
        return 0
    with house() as qwend:
        config = f'[images]\nbase = "{base[0]}"\nbase_id = "{base[1]}"\n'
        (qwend.folder / "qwend.toml").write_text(config)
        for runtime in RUNTIMES:  # realises the images, warms the page cache
            quickstart(qwend, runtime)
        taken: dict[str, list[dict[str, float]]] = {runtime: [] for runtime in RUNTIMES}
        for _ in range(rounds):
            for runtime in RUNTIMES:
                taken[runtime].append(quickstart(qwend, runtime))
    for runtime in RUNTIMES:
        parts = {part: statistics.median(one[part] for one in taken[runtime]) for part in taken[runtime][0]}
        print(f"{runtime:<10}" + "".join(f"{part} {seconds:6.2f} s   " for part, seconds in parts.items()))
    totals = {runtime: [sum(one.values()) for one in taken[runtime]] for runtime in RUNTIMES}
    ratio = statistics.median(
        ours / theirs for ours, theirs in zip(totals["docker"], totals["native"], strict=True)
    )
    return 0 if tell("in containers", statistics.median(totals["docker"]), "s", ratio, "native", BOUND) else 1


if __name__ == "__main__":
    sys.exit(main())
