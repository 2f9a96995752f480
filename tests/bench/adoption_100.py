"""`kill -9` of the daemon with 100 services: how long the next daemon takes until all are adopted.

    python tests/bench/adoption_100.py [--services 100]

Twice: with all of them alive, and with half of them killed meanwhile. Time runs from the start of the next daemon to
its first answer, when recovery is over: the start of Python and its imports included. A service that was alive must
be `ready` with the same pid and generation, one that was killed must come back once. A missed bound is exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "daemon"))

from tests.bench.house import House, house
from tests.faults.house import dead

from qwend.client import Client
from qwend.errors import QwendError

BOUND_S = 2.0
Rows = dict[str, dict[str, Any]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=100)
    given = parser.parse_args()
    met = True
    with house(toy=True) as made:
        made.run("daemon", "start")
        client = Client(str(made.home / "qwend.sock"))
        steps = {
            f"s{number}": {"uses": "toy/serve", "health": {"interval": "10s"}}
            for number in range(given.services)
        }
        text = json.dumps({"name": "many", "steps": steps})
        files = [{"path": str(made.folder / "many.yaml"), "text": text}]
        list(client.stream("POST", "/v1/runs", {"files": files, "directory": str(made.folder), "kept": True}))
        for dead in (0, given.services // 2):
            before = rows(client)
            assert all(row["state"] == "ready" for row in before.values())
            kill(client.get("/v1/version")["pid"])
            for name in list(before)[:dead]:
                kill(before[name]["pid"])
            seconds, cpu = measure(made, client)
            lived = list(before)[dead:]
            after = rows(client)
            adopted = sum(after[name]["pid"] == before[name]["pid"] for name in lived)
            restarted = sum(after[name]["generation"] != before[name]["generation"] for name in lived)
            begun = time.perf_counter()
            while any(row["state"] != "ready" for row in after.values()):
                time.sleep(0.02)
                after = rows(client)
            back = sum(after[n]["generation"] == before[n]["generation"] + 1 for n in list(before)[:dead])
            lost = len(before) - len(after)
            took = time.perf_counter() - begun
            print(
                f"{dead} dead: {adopted} of {len(lived)} adopted, {restarted} restarted, {lost} lost; daemon answers "
                f"after {seconds:.2f} s (bound {BOUND_S:g}), {cpu:.2f} s of CPU; "
                f"{back} of {dead} came back once, {took:.2f} s later"
            )
            met = (
                met
                and seconds <= BOUND_S
                and adopted == len(lived)
                and not restarted
                and not lost
                and back == dead
            )
    return 0 if met else 1


def measure(made: House, client: Client) -> tuple[float, float]:
    """Seconds from the start of a daemon to its first answer, and those of the CPU that it took for that."""
    command = [sys.executable, "-P", "-m", "qwend.daemon"]
    begun = time.perf_counter()
    subprocess.Popen(command, env=made.environ, start_new_session=True, stderr=subprocess.DEVNULL)
    while True:
        with contextlib.suppress(QwendError):
            client.get("/v1/version")
            return time.perf_counter() - begun, _cpu_s(client.get("/v1/version")["pid"])
        time.sleep(0.005)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / os.sysconf("SC_CLK_TCK")


def rows(client: Client) -> Rows:
    return {row["step"]: row for row in client.get("/v1/steps", recipe="many")["steps"]}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    while not dead(pid):
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main())
