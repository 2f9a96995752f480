"""100 services up and down: the native supervisor against bare supervisord with 100 [program:x] sections.

    PYTHONPATH=daemon python tests/bench/supervisor_100.py [--services 100] [--rounds 5]

Both start cold (no supervisord runs), both write one log per service. "up" ends when all services run their
program, "down" when all are gone; bare supervisord goes down by `stopAllProcesses`, since its `shutdown`
stops one program after the other (half a minute). Left alone it would sleep a second before it starts
anything (it polls first), so it is woken by a connection: that second is not counted against it. The median
of the rounds counts; the best is printed too. They differ much for bare supervisord's "down": when the last
program is not dead by the end of the turn that signalled it, it is reaped at the next poll, a second later
(Python resumes a poll that SIGCHLD interrupts). CPU is that of supervisord and, for qwend, of the daemon's
side too. A missed bound is exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]

from qwend.adapters.native.data import SpawnRequest
from qwend.adapters.native.supervisor import NativeSupervisor

TARGET = 1.2
SERVICE = ("/bin/sleep", "1000")


class Times(NamedTuple):
    """Seconds."""

    up: float
    down: float
    cpu: float


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runs: dict[str, Callable[[Path, int], Times]] = {
        "qwend": lambda folder, count: asyncio.run(qwend(folder, count)),
        "bare": bare,
    }
    rounds: dict[str, list[Times]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():  # side by side, so that a busy moment of the machine hits all
            with tempfile.TemporaryDirectory(prefix="qwend-bench-") as folder:
                rounds[name].append(run(Path(folder), options.services))
    met = True
    print(f"{options.services} services, {options.rounds} rounds, qwend / bare supervisord")
    for name in Times._fields:
        ours, peer = ([getattr(times, name) for times in rounds[who]] for who in ("qwend", "bare"))
        ratio = median(ours) / median(peer)
        met = met and (name == "cpu" or ratio <= TARGET)
        bound = "" if name == "cpu" else f", bound {TARGET}"
        medians = f"median {median(ours):.3f} s / {median(peer):.3f} s"
        print(f"  {name:4} {ratio:5.2f}  ({medians}, best {min(ours):.3f} s / {min(peer):.3f} s{bound})")
    return 0 if met else 1


async def qwend(folder: Path, count: int) -> Times:
    native = NativeSupervisor(folder, "bench")
    requests = [
        SpawnRequest(f"bench:run:r/s{n}:1", SERVICE, {"PATH": os.defpath}, folder, folder / f"s{n}.log")
        for n in range(count)
    ]
    before = time.process_time()
    begin = time.perf_counter()
    supervisord = (await native.ensure()).pid
    await asyncio.gather(*map(native.spawn, requests))
    up = time.perf_counter() - begin
    begin = time.perf_counter()
    await asyncio.gather(*(native.stop(request.marker, 10.0) for request in requests))
    down = time.perf_counter() - begin
    cpu = time.process_time() - before + cpu_of(supervisord)
    await native.shutdown_when_empty()
    await native.lost()
    await native.close()
    return Times(up, down, cpu)


def bare(folder: Path, count: int) -> Times:
    config = folder / "supervisord.conf"
    head = (
        f"[supervisord]\nnodaemon=true\nsilent=true\nlogfile={folder}/d.log\npidfile={folder}/d.pid\n"
        f"[unix_http_server]\nfile={folder}/s.sock\n[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
    )
    program = (
        "[program:s{n}]\ncommand={command}\nstartsecs=0\nautorestart=false\n"
        "redirect_stderr=true\nstdout_logfile={folder}/s{n}.log\n"
    )
    command = " ".join(SERVICE)
    sections = (program.format(n=n, command=command, folder=folder) for n in range(count))
    config.write_text(head + "".join(sections))
    begin = time.perf_counter()
    argv = (sys.executable, "-c", "from supervisor.supervisord import main; main()", "-c", str(config))
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: knock(folder / "s.sock"))
    wait_for(lambda: len(services := children(process.pid)) == count and all(map(runs_service, services)))
    up = time.perf_counter() - begin
    transport = SupervisorTransport(None, None, f"unix://{folder}/s.sock")
    server: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
    begin = time.perf_counter()
    server.supervisor.stopAllProcesses()
    down = time.perf_counter() - begin
    cpu = cpu_of(process.pid)
    server.supervisor.shutdown()
    transport.close()
    process.wait()
    return Times(up, down, cpu)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def knock(path: Path) -> bool:
    """Wakes supervisord's main loop; False if it does not listen yet."""
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


def runs_service(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(SERVICE[0].encode())
    except OSError:
        return False


def cpu_of(pid: int) -> float:
    """Seconds of user and system time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main())
