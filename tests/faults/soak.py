"""A bounded stress run: starts, stops, replaces, kills, fills disks, drops daemon, supervisor and engine; then counts.

    python -m tests.faults.soak [--minutes 2] [--seed N]

Two thirds of the time go to native processes on a small disk that is filled now and then (where this user may mount
one, else the disk is left alone), a third to containers and processes side by side, with an engine that goes away
(where Docker Engine answers). Everything is drawn from one seed, which is printed. Each round brings recipes of
services and jobs up, does something bad to them, and goes on; at the end everything is stopped and these must hold:

- no process or container of this home lives, no ended container is left, and no zombie is a child of the daemon
- no lease is active, and nobody waits for one
- the daemon has no more descriptors than at the start
- every step is settled, and the events replay to the very rows that the daemon shows
- every row that once was `ready` had a process that really answered (checked as it goes)

Exit code 1 names what does not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.e2e.conftest import local_base
from tests.faults.containers import DockerHouse
from tests.faults.house import ROOT, Begun, House, a_house, dead, make, serve, wait_for
from tests.faults.small_disk import fill

from qwend.adapters.state import SqliteState
from qwend.errors import QwendError

_SPACE = ("unshare", "--map-root-user", "--mount")
_MEGABYTES = 192
_IDLE: dict[type[House], int] = {House: 4, DockerHouse: 4 + 8}
"""Descriptors that may be more than at the start: noise, and idle connections to the engine, one for each of the
threads that speak to it."""


class Soak:
    """One run of it. `disk` is a small disk of its own, or None."""

    def __init__(self, house: House, chance: random.Random, disk: Path | None) -> None:
        self._house = house
        self._chance = chance
        self._disk = disk
        self._ups: list[Begun] = []
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []

    def round(self) -> None:
        """Something good, then something bad."""
        self._attempt(self._chance.choice([self._up, self._up, self._up, self._down, self._act]))
        evils: list[Callable[[], None]] = [
            self._kill_a_process, self._kill_a_process, self._kill_daemon, self._kill_supervisor, self._look, self._look
        ]  # fmt: skip
        if self._disk is not None:
            evils.append(self._fill_disk)
        if isinstance(self._house, DockerHouse):
            evils += [self._drop_engine, self._drop_engine]
        self._attempt(self._chance.choice(evils))
        self._ups = [up for up in self._ups if not up.over]

    def _attempt(self, work: Callable[[], None]) -> None:
        self.done[work.__name__.strip("_").replace("_", " ")] += 1
        # What is refused is refused with an error; what hangs is met by the bound of the wait.
        with contextlib.suppress(QwendError):
            work()

    def _up(self) -> None:
        steps: dict[str, Any] = {}
        for number in range(self._chance.randrange(1, 5)):
            manners: dict[str, Any] = {"text": f"{self._chance.randrange(3)}", "stop_grace": "1s"}
            if self._chance.random() < 0.5:
                name, value = self._chance.choice(MANNERS)
                manners[name] = value
            manners["restart"] = {"max": 3, "backoff": "50ms"}
            # One that hangs before it is ready is met by this; four times the usual two minutes would be a long wait.
            manners["health"] = {"deadline": "8s"}
            steps[f"s{number}"] = serve(**manners, **self._somewhere())
        for number in range(self._chance.randrange(3)):
            text = f"{self._chance.randrange(1000)}"
            steps[f"j{number}"] = make(
                text=text,
                seconds=self._chance.random(),
                code=int(self._chance.random() < 0.2),
                **self._somewhere(),
            )
        recipe = f"r{self._chance.randrange(4)}"
        self._ups.append(self._house.begin(recipe, steps))
        if self._chance.random() < 0.5:
            with contextlib.suppress(QwendError):
                self._ups[-1].result()

    def _somewhere(self) -> dict[str, str]:
        """Where there are containers, a step runs in one or beside them."""
        if not isinstance(self._house, DockerHouse):
            return {}
        return {"runtime": self._chance.choice(["docker", "docker", "native"])}

    def _down(self) -> None:
        self._house.down(f"r{self._chance.randrange(4)}")

    def _act(self) -> None:
        rows = [row for row in self._house.rows() if row["kind"] == "service" and "@" not in row["step"]]
        if rows:
            row = self._chance.choice(rows)
            verb = self._chance.choice(["stop", "restart", "start"])
            self._house.act(f"{row['recipe']}/{row['step']}", verb)

    def _kill_a_process(self) -> None:
        if pids := list(self._house.processes()):
            with contextlib.suppress(ProcessLookupError, PermissionError):  # a container's is another user's
                os.kill(self._chance.choice(pids), signal.SIGKILL)

    def _kill_daemon(self) -> None:
        self._house.kill()
        self._house.start()

    def _kill_supervisor(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(self._house.supervisor(), signal.SIGKILL)

    def _drop_engine(self) -> None:
        """For a moment no engine answers, and something happens meanwhile."""
        assert isinstance(self._house, DockerHouse)
        self._house.door.shut()
        try:
            self._attempt(
                self._chance.choice([self._up, self._down, self._kill_a_process, self._kill_daemon])
            )
            time.sleep(self._chance.random())  # for a moment of its own it stays away
        finally:
            self._house.door.open()

    def _fill_disk(self) -> None:
        assert self._disk is not None
        fillers = [fill(self._disk, f"filler{number}") for number in range(2)]
        try:
            self._attempt(self._chance.choice([self._up, self._down, self._kill_a_process]))
            time.sleep(self._chance.random())  # for a moment of its own the disk is full
        finally:
            for filler in fillers:
                filler.unlink()

    def _look(self) -> None:
        """What is said to be ready answers, or is no longer said to be."""
        for row in self._house.rows():
            if row["state"] != "ready":
                continue
            try:
                with urllib.request.urlopen(f"{row['url']}/health", timeout=30) as answer:
                    answer.read()
            except (OSError, HTTPException):
                self._expect_news(row)

    def _expect_news(self, row: dict[str, Any]) -> None:
        def changed() -> bool:
            now = self._house.row(f"{row['recipe']}/{row['step']}")
            return any(now[name] != row[name] for name in ("state", "generation", "pid"))

        try:
            wait_for(changed, "news", 30)
        except AssertionError:
            self.wrong.append(f"{row['recipe']}/{row['step']} is called ready and does not answer")

    def settle(self, descriptors: int) -> None:
        """Stops everything and counts what is left."""
        for up in self._ups:
            with contextlib.suppress(QwendError):
                up.result()
        self._house.down()
        self._check("processes are left", lambda: not self._house.processes())
        if isinstance(self._house, DockerHouse):
            containers = self._house.containers
            self._check("containers are left", lambda: not containers())
        self._check("leases are active", lambda: not self._active())
        self._check("steps are not settled", lambda: not self._unsettled())
        self._check(
            "descriptors are left", lambda: len(os.listdir(f"/proc/{self._house.pid}/fd")) <= descriptors
        )
        for pid in (self._house.pid,):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self.wrong += [f"a zombie: {child}" for child in children if dead(int(child))]
        shown = {f"{row['recipe']}/{row['step']}": row["state"] for row in self._house.rows()}
        self._house.stop()
        stored = asyncio.run(replayed(self._house.home))
        if stored != shown:
            self.wrong.append(f"events replay to {stored}, the daemon showed {shown}")

    def account(self) -> str:
        """What there is to see of a house that does not come to an end."""
        with contextlib.suppress(QwendError):
            rows = "".join(f"\n  {row}" for row in self._house.rows())
            events = "".join(f"\n  {event}" for event in self._house.events()[-60:])
            lived = f"{self._house.processes()}\nsteps:{rows}\nevents:{events}"
            return f"processes: {lived}\nthe daemon's log:\n{self._house.log()}"
        return f"the daemon does not answer; its log:\n{self._house.log()}"

    def _active(self) -> list[Any]:
        return [lease for lease in self._house.client.get("/v1/ports")["leases"] if lease.get("active")]

    def _unsettled(self) -> list[Any]:
        settled = {"stopped", "failed", "succeeded", "cancelled", "cached", "pending"}
        return [(row["step"], row["state"]) for row in self._house.rows() if row["state"] not in settled]

    def _check(self, what: str, holds: Callable[[], bool]) -> None:
        try:
            wait_for(holds, what, 30)
        except AssertionError:
            rows = [(row["recipe"], row["step"], row["state"], row["reason"]) for row in self._house.rows()]
            self.wrong.append(f"{what}: {self._house.processes()}, {self._active()}, {rows}")


MANNERS: list[tuple[str, Any]] = [
    ("ignore_sigterm", True),
    ("fork", True),
    ("setsid", True),
    ("orphan", True),
    ("polite", 0.3),
    ("slow", 0.5),
    ("load", 0.5),
    ("die_after", 0.5),
    ("die_after", 2.0),
    ("fail", "error: no luck today"),
    ("hang_after", 1.0),
    ("flood", 1 << 20),
]


async def replayed(home: Path) -> dict[str, str]:
    """The states of all steps, made anew from the events and compared with the stored rows."""
    state = await SqliteState.open(str(home / "state.db"))
    try:
        rows = state.replay()
        assert rows.get("step", {}) == state.rows("step"), "the events do not replay to the stored rows"
        return {key: row.get("state", "pending") for key, row in rows.get("step", {}).items()}
    finally:
        await state.close()


def run(minutes: float, seed: int, disk: Path | None, kind: type[House] = House) -> int:
    chance = random.Random(seed)
    if disk is not None:
        tempfile.tempdir = str(disk)
    with a_house(kind) as house:
        both = ({"runtime": "docker"}, {"runtime": "native"}) if kind is DockerHouse else ({},)
        house.up("warm", {f"chat{n}": serve(**where) for n, where in enumerate(both)})
        house.up("warm", {f"write{n}": make(text="warm", **where) for n, where in enumerate(both)})
        house.down()
        wait_for(lambda: not house.processes(), "it is quiet")
        descriptors = len(os.listdir(f"/proc/{house.pid}/fd"))
        soak = Soak(house, chance, disk)
        ends, rounds = time.monotonic() + 60 * minutes, 0
        try:
            while time.monotonic() < ends:
                soak.round()
                rounds += 1
            soak.settle(descriptors + _IDLE[kind])
        except BaseException:
            print(f"seed {seed}, round {rounds}: {soak.account()}", flush=True)
            raise
    counts = ", ".join(f"{count} {what}" for what, count in soak.done.most_common())
    what = house.runtime if disk or kind is DockerHouse else f"{house.runtime}, disk left alone"
    print(f"seed {seed}, {what}: {rounds} rounds in {minutes:.2g} min: {counts}", flush=True)
    for text in soak.wrong:
        print(f"WRONG: {text}")
    return 1 if soak.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--disk", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    engine = local_base() is not None if shutil.which("docker") else False
    natively = given.minutes * (2 / 3 if engine else 1)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    if given.disk is not None:
        return run(given.minutes, seed, given.disk)
    wrong = on_a_small_disk(natively, seed)
    if not engine:
        print("no Docker Engine with a local base image answers: no containers, and no engine to drop")
        return wrong
    return run(given.minutes - natively, seed, None, DockerHouse) or wrong


def on_a_small_disk(minutes: float, seed: int) -> int:
    """The native part, in a process with a mount of its own where that is allowed."""
    with tempfile.TemporaryDirectory(prefix="qwend-soak-") as folder:
        said = ["--minutes", str(minutes), "--seed", str(seed)]
        again = [sys.executable, "-m", "tests.faults.soak", *said]
        mount = f'mount -t tmpfs -o "size={_MEGABYTES}m,mode=0700" qwend-test "$1" && shift && exec "$@"'
        command = [*_SPACE, "sh", "-c", mount, "sh", folder, *again, "--disk", folder]
        probe = [*_SPACE, "mount", "-t", "tmpfs", "qwend-test", folder]
        path = os.pathsep.join(filter(None, [str(ROOT / "daemon"), str(ROOT), os.environ.get("PYTHONPATH")]))
        environ = {**os.environ, "PYTHONPATH": path}
        if (
            shutil.which("unshare")
            and subprocess.run(probe, capture_output=True, check=False).returncode == 0
        ):
            return subprocess.run(command, env=environ, cwd=ROOT, check=False).returncode
    return run(minutes, seed, None)


if __name__ == "__main__":
    sys.exit(main())
