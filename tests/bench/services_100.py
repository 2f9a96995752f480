"""100 HTTP services up and down through the daemon, against bare supervisord with 100 [program:x] sections.

    python tests/bench/services_100.py [--services 100] [--rounds 3]

Both run the same little server. "up" ends when every one of them answers `/health` (qwend has planned, recorded four
events for each, leased a port and sent a real request to its work path by then), "down" when all are gone. The daemon
runs before, as it does for a user; its supervisord does not, and neither does the bare one. The best of the rounds
counts, since the machine has other things to do as well. A missed bound is exit code 1.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "daemon"))

from tests.bench.house import ROOT, House, house, tell

from qwend.client import Client

BOUND = 1.2
DRIVER = ROOT / "tests/fakes/toy/toy_driver.py"
FIRST_PORT = 19000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    ours: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    with house(toy=True) as made:
        made.run("daemon", "start")
        client = Client(str(made.home / "qwend.sock"))
        list(
            client.stream("POST", "/v1/plan", request(made, 1))
        )  # the planner worker is warm, as after any plan
        for _ in range(given.rounds):  # side by side, so that a busy moment of the machine hits both
            ours.append(qwend(client, made, given.services))
            with tempfile.TemporaryDirectory(prefix="qwend-bench-") as folder:
                bare.append(supervisord(Path(folder), given.services))
    (up, down), (bare_up, bare_down) = best(ours), best(bare)
    print(
        f"{given.services} services, best of {given.rounds} rounds; bare supervisord {bare_up:.2f} s, {bare_down:.2f} s"
    )
    met = [
        tell("up", 1000 * up, "ms", up / bare_up, "bare supervisord", BOUND),
        tell("down", 1000 * down, "ms", down / bare_down, "bare supervisord", BOUND),
    ]
    return 0 if all(met) else 1


def best(rounds: Iterable[tuple[float, float]]) -> tuple[float, float]:
    ups, downs = zip(*rounds, strict=True)
    return min(ups), min(downs)


def request(made: House, count: int) -> dict[str, Any]:
    steps = {f"s{number}": {"uses": "toy/serve", "health": {"interval": "10s"}} for number in range(count)}
    text = json.dumps({"name": "many", "steps": steps})
    path = made.folder / "many.yaml"
    return {"files": [{"path": str(path), "text": text}], "directory": str(made.folder), "kept": True}


def qwend(client: Client, made: House, count: int) -> tuple[float, float]:
    begun = time.perf_counter()
    end = list(client.stream("POST", "/v1/runs", request(made, count)))[-1]["end"]
    up = time.perf_counter() - begun
    assert end["exit_code"] == 0, end
    assert sum(row["state"] == "ready" for row in end["steps"]) == count
    begun = time.perf_counter()
    list(client.stream("POST", "/v1/recipes/many/down"))
    return up, time.perf_counter() - begun


def supervisord(folder: Path, count: int) -> tuple[float, float]:
    config = folder / "supervisord.conf"
    text = (
        f"[supervisord]\nnodaemon=true\nsilent=true\nlogfile={folder}/d.log\npidfile={folder}/d.pid\n"
        f"[unix_http_server]\nfile={folder}/s.sock\n[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
    )
    for number in range(count):
        command = f"{sys.executable} {DRIVER} serve --host 127.0.0.1 --port {FIRST_PORT + number}"
        text += (
            f"[program:s{number}]\ncommand={command}\nstartsecs=0\nautorestart=false\nredirect_stderr=true\n"
            f"stdout_logfile={folder}/s{number}.log\n"
        )
    config.write_text(text)
    begun = time.perf_counter()
    code = "from supervisor.supervisord import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "-c", str(config)])
    for number in range(count):
        wait_for(lambda number=number: healthy(FIRST_PORT + number))  # type: ignore[misc]
    up = time.perf_counter() - begun
    transport = SupervisorTransport(None, None, f"unix://{folder}/s.sock")
    server: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
    begun = time.perf_counter()
    server.supervisor.stopAllProcesses()
    down = time.perf_counter() - begun
    server.supervisor.shutdown()
    transport.close()
    process.wait()
    return up, down


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main())
