"""What the command line costs: CPU of `qwend --help` and `qwend ps` against `supervisorctl status`.

    python tests/bench/cli.py [ROUNDS]

Both ask a warm daemon over a unix socket. Commands take turns in every round, so that whatever else the machine
does meets them alike; the ratio is that of the medians of user plus system time of the whole process tree, the
launcher's shell included. A missed bound (0.6) is exit code 1.
"""

from __future__ import annotations

import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BOUND = 0.6
PEER = "supervisorctl status"
SUPERVISORD = """\
[unix_http_server]
file={folder}/peer.sock
[supervisord]
logfile={folder}/peer.log
pidfile={folder}/peer.pid
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/peer.sock
[program:sleeper]
command=sleep 86400
numprocs=3
process_name=%(program_name)s_%(process_num)d
"""


def cpu_ms(command: list[str], environ: dict[str, str]) -> float:
    """User and system time of one run, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory(prefix="qwend-") as folder:
        environ = {**os.environ, "QWEND_HOME": f"{folder}/home"}
        launcher = str(ROOT / "qwend")
        supervisor = Path(sys.executable).parent
        config = Path(folder, "peer.conf")
        config.write_text(SUPERVISORD.format(folder=folder))
        commands = {
            PEER: [str(supervisor / "supervisorctl"), "-c", str(config), "status"],
            "qwend --help": [launcher, "--help"],
            "qwend ps": [launcher, "ps"],
        }
        peer = subprocess.Popen(
            [str(supervisor / "supervisord"), "-c", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        subprocess.run([launcher, "daemon", "start"], env=environ, check=True)
        try:
            _warm(commands, environ)
            times: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(rounds):
                for name, command in commands.items():
                    times[name].append(cpu_ms(command, environ))
        finally:
            subprocess.run([launcher, "daemon", "stop"], env=environ, check=False)
            peer.send_signal(signal.SIGTERM)
            peer.wait()
    medians = {name: statistics.median(values) for name, values in times.items()}
    missed = False
    for name, value in medians.items():
        ratio = value / medians[PEER]
        missed |= name != PEER and ratio > BOUND
        print(
            f"{name:<22} {value:6.1f} ms CPU   {ratio:.2f} of {PEER}"
            + ("" if name == PEER else f" (bound {BOUND})")
        )
    return int(missed)


def _warm(commands: dict[str, list[str]], environ: dict[str, str]) -> None:
    """Waits until each command works."""
    for command in commands.values():
        deadline = time.monotonic() + 30
        while subprocess.run(command, env=environ, capture_output=True, check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command)} does not work")
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
