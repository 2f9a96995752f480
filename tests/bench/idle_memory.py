"""What the daemon costs while nothing happens: its resident memory against Docker Engine's.

    python tests/bench/idle_memory.py

The peer is dockerd with its containerd, as they idle on this machine; where none runs there is nothing to compare with.
The daemon has planned a recipe before, and its planner worker has gone. A missed bound (0.5) is exit code 1.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.house import ROOT, house, rss_of, tell

BOUND = 0.5
IDLE_S = 75.0
"""The worker goes after a minute without a call."""


def peers() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name = (folder / "comm").read_text().strip()
            except OSError:
                continue
            if name in {"dockerd", "containerd"}:
                found.append(int(folder.name))
    return found


def main() -> int:
    engine = peers()
    if not engine:
        print("no Docker Engine runs here: nothing to compare with")
        return 0
    with house() as qwend:
        qwend.run("plan", "--smoke", str(ROOT / "recipes" / "gguf.yaml"))
        time.sleep(IDLE_S)
        ours, all_ours = qwend.rss(), rss_of(qwend.pids())
    theirs = rss_of(engine)
    print(f"{'dockerd and containerd':<40} {theirs / 2**20:10.1f} MiB")
    print(f"{'qwend with all its processes':<40} {all_ours / 2**20:10.1f} MiB")
    return 0 if tell("qwend daemon, idle", ours / 2**20, "MiB", ours / theirs, "Docker Engine", BOUND) else 1


if __name__ == "__main__":
    sys.exit(main())
