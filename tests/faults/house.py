"""A real daemon with the toy engines: what a user sees of a fault is seen through its API and its command line.

Every wait is for a condition, with a bound that only a hang meets.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.ports import Block

from qwend.adapters.native.places import Places
from qwend.client import Client
from qwend.errors import QwendError, Unreachable

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90.0
Json = dict[str, Any]
_names = itertools.count(1)


def wait_for(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true answer; AssertionError after a time that only a hang takes."""
    deadline = time.monotonic() + patience_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"it did not come to this: {what}"
        time.sleep(0.01)
    return answer


def dead(pid: int) -> bool:
    """Whether a process is gone (a zombie is)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class House:
    """A home with its daemon, whose steps run natively.

    `up` takes steps as keyword arguments: `chat={"uses": "toy/serve", "with": {…}}`.
    """

    runtime = "native"

    def __init__(self, toml: str = 'runtime = "native"\n', **environ: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="qwend-f-"))
        self.folder = self.home / "work"
        self.folder.mkdir()
        self.ports = Block()
        (self.home / "qwend.toml").write_text(f"{self.ports.toml}{toml}")
        rooms = [str(ROOT / room) for room in ("daemon", "plugins", "images", "tests/fakes/toy")]
        rooms += filter(None, [os.environ.get("PYTHONPATH")])
        self.environ = {
            **os.environ,
            "QWEND_HOME": str(self.home),
            "QWEND_CONFIG": str(self.home / "qwend.toml"),
            "PYTHONPATH": os.pathsep.join(rooms),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "DOCKER_HOST": "unix:///nowhere/docker.sock",
            **environ,
        }
        self.client = Client(str(self.home / "qwend.sock"))
        self._daemon: subprocess.Popen[bytes] | None = None
        self._prefix: list[str] = []

    # -- the daemon --------------------------------------------------------------------------------

    def start(self, *prefix: str) -> None:
        """Starts the daemon (under a command such as `prlimit`) and returns when it answers."""
        if prefix:
            self._prefix = list(prefix)
        command = [*self._prefix, sys.executable, "-P", "-m", "qwend.daemon"]
        self._daemon = subprocess.Popen(command, env=self.environ, cwd=self.home, stderr=subprocess.DEVNULL)
        wait_for(self._answers, "the daemon answers")

    def _answers(self) -> bool:
        assert self._daemon is not None and self._daemon.poll() is None, f"the daemon ended: {self.log()}"
        with contextlib.suppress(Unreachable):
            self.client.get("/v1/version")
            return True
        return False

    @property
    def pid(self) -> int:
        assert self._daemon is not None
        return int(self.client.get("/v1/version")["pid"]) if self._prefix else self._daemon.pid

    def kill(self) -> None:
        """`kill -9`."""
        assert self._daemon is not None
        os.kill(self.pid, signal.SIGKILL)
        self._daemon.wait()

    def stop(self) -> int:
        """Ends the daemon as its user does; services live on. Its exit code."""
        assert self._daemon is not None
        os.kill(self.pid, signal.SIGTERM)
        return self._daemon.wait(PATIENCE_S)

    def close(self) -> None:
        """Ends everything, whatever state it is in."""
        try:
            if self._daemon is None or self._daemon.poll() is not None:
                self.start()
            with contextlib.suppress(QwendError):
                self.down()
            self.stop()
        finally:
            if self._daemon is not None and self._daemon.poll() is None:
                self._daemon.kill()
                self._daemon.wait()
            self.ports.close()
            shutil.rmtree(self.home, ignore_errors=True)

    def supervisor(self) -> int:
        """The pid of the native supervisor."""
        return int(Places.of(self.home).lock.read_text())

    def log(self) -> str:
        """The end of the daemon's own log."""
        path = self.home / "logs/daemon.log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""

    # -- what a user does --------------------------------------------------------------------------

    def request(self, recipe: str, steps: Json, **more: Any) -> Json:
        datasets = more.pop("datasets", {})
        text = json.dumps({"name": recipe, "datasets": datasets, "steps": steps})
        file = {"path": str(self.folder / f"{recipe}.yaml"), "text": text}
        return {"files": [file], "directory": str(self.folder), "kept": True, **more}

    def up(self, recipe: str, steps: Json, **more: Any) -> Json:
        """Brings a recipe up and waits for its `end`. Errors before it are raised."""
        return self.follow(recipe, steps, **more)[-1]["end"]  # type: ignore[no-any-return]

    def follow(self, recipe: str, steps: Json, **more: Any) -> list[Json]:
        """Everything that `up` tells."""
        return list(self.client.stream("POST", "/v1/runs", self.request(recipe, steps, **more)))

    def begin(self, recipe: str, steps: Json, **more: Any) -> Begun:
        """An `up` whose end is not waited for."""
        return Begun(lambda: self.follow(recipe, steps, **more))

    def plan(self, recipe: str, steps: Json, **more: Any) -> Json:
        stream = self.client.stream("POST", "/v1/plan", self.request(recipe, steps, **more))
        return list(stream)[-1]["plan"]  # type: ignore[no-any-return]

    def act(self, key: str, verb: str) -> Json:
        return list(self.client.stream("POST", f"/v1/steps/{key}/{verb}"))[-1]["end"]  # type: ignore[no-any-return]

    def down(self, recipe: str | None = None) -> Json:
        target = f"/v1/recipes/{recipe}/down" if recipe else "/v1/down"
        return list(self.client.stream("POST", target))[-1]["end"]  # type: ignore[no-any-return]

    def rows(self, recipe: str | None = None) -> list[Json]:
        return self.client.get("/v1/steps", recipe=recipe)["steps"]  # type: ignore[no-any-return]

    def row(self, key: str) -> Json:
        recipe, _, step = key.partition("/")
        nothing = {"state": "", "reason": "", "pid": None, "generation": 0}
        return next((row for row in self.rows(recipe) if row["step"] == step), nothing)

    def until(self, key: str, *states: str, where: Callable[[Json], Any] = lambda row: True) -> Json:
        """The row of a step once it is in one of these states."""

        def found() -> Json | None:
            row = self.row(key)
            return row if row["state"] in states and where(row) else None

        try:
            return wait_for(found, f"{key} is {' or '.join(states)}")  # type: ignore[no-any-return]
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.row(key)}; {self.log()}") from None

    def events(self, recipe: str | None = None) -> list[Json]:
        return list(self.client.stream("GET", "/v1/events", recipe=recipe))

    def kinds(self, key: str) -> list[str]:
        """What happened to a step, in order."""
        events = self.events(key.partition("/")[0])
        steps = ("service.", "job.")
        return [e["kind"] for e in events if e["subject"] == key and e["kind"].startswith(steps)]

    def text(self, key: str) -> str:
        """The log of a step."""
        return b"".join(self.client.text(f"/v1/logs/{key}")).decode()

    def said(self, key: str, word: str) -> list[int]:
        """Numbers that the toy said of itself: `child 4711`, `served 3`."""
        lines = (line.split() for line in self.text(key).splitlines())
        return [int(line[1]) for line in lines if len(line) == 2 and line[0] == word]

    def cli(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "qwend", *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def processes(self) -> dict[int, str]:
        """Every living process of this home's instance, with its marker."""
        instance = (self.home / "instance").read_text().strip()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (marker := _marker(entry)).startswith(f"{instance}:"):
                found[int(entry.name)] = marker
        return found

    def kin(self, key: str) -> list[int]:
        """The pids of every living process of a step, its main one included."""
        return [pid for pid, marker in self.processes().items() if f":{key}:" in marker]

    def crash(self) -> None:
        """All goes at once, as when the machine loses its power: the daemon, what supervises, what runs."""
        self.kill()
        with contextlib.suppress(OSError, ValueError):  # where nothing ran natively there is none
            os.kill(self.supervisor(), signal.SIGKILL)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.processes(), "all is dead")


class Begun:
    """A request that goes on in a thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._result = work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(PATIENCE_S)
        assert self.over, "it goes on for ever"
        if self._error is not None:
            raise self._error
        return self._result


def a_name() -> str:
    """A recipe's name that no other test has."""
    return f"r{next(_names)}"


def serve(uses: str = "toy/serve", **with_: Any) -> Json:
    """A service; keys that are no parameter of the toy are the step's own."""
    return _step(uses, with_)


def make(uses: str = "toy/make", **with_: Any) -> Json:
    """A job."""
    return _step(uses, with_)


def _step(uses: str, given: Json) -> Json:
    own = {
        "restart",
        "stop_grace",
        "port",
        "replace",
        "needs",
        "from",
        "timeout",
        "retries",
        "health",
        "secrets",
    }
    own |= {
        "gpu_share",
        "memory",
        "cpus",
        "env",
        "out",
        "gpus",
        "host",
        "keep",
        "device",
        "runtime",
        "extra_args",
    }
    given = {name.rstrip("_"): value for name, value in given.items()}
    step = {name: value for name, value in given.items() if name in own}
    return {"uses": uses, **step, "with": {name: value for name, value in given.items() if name not in own}}


@contextlib.contextmanager
def a_house(kind: type[House] = House, **more: Any) -> Iterator[House]:
    """A house of one's own, for who kills its daemon or fills its disk."""
    house = kind(**more)
    try:
        house.start()
        yield house
    finally:
        house.close()


def a_stranger(port: int, *, answers: bool = False) -> subprocess.Popen[bytes]:
    """Another program that listens on a port; with `answers` it says that all is well, whatever is asked."""
    code = (
        "import socket,sys\n"
        "s=socket.socket(); s.setsockopt(1,2,1); s.bind(('127.0.0.1',int(sys.argv[1]))); s.listen(64)\n"
        "print(flush=True)\n"
        "while True:\n"
        " c,_=s.accept()\n"
        " if sys.argv[2]=='1':\n"
        "  c.recv(65536); c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 11\\r\\n\\r\\n{\"ok\":true}'); c.close()\n"
    )
    stranger = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, str(port), str(int(answers))], stdout=subprocess.PIPE
    )
    assert stranger.stdout is not None and stranger.stdout.readline() == b"\n"
    return stranger


def end(stranger: subprocess.Popen[bytes]) -> None:
    stranger.kill()
    stranger.wait()
    if stranger.stdout is not None:
        stranger.stdout.close()


def _marker(entry: Path) -> str:
    try:
        environ = (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((item[13:].decode() for item in environ if item.startswith(b"QWEND_MARKER=")), "")
