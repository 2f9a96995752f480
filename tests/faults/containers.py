"""A house whose steps run in containers, behind a door to the engine that can be shut.

The engine itself is everybody's on this machine, so it is not stopped: what the daemon sees of a stopped engine (no
socket, broken connections, containers that live on) is made at the door. A dockerd of its own is killed in
`tests/unit/adapters/docker`.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import local_base
from tests.faults.house import ROOT, House

from qwend.adapters.docker.address import find_address

_BLOCK = 1 << 16
_PLACES = ["native", pytest.param("docker", marks=pytest.mark.docker)]

everywhere = pytest.mark.parametrize("house", _PLACES, indirect=True)
"""For a test of a fault that either runtime could let through; the house is shared."""
own_everywhere = pytest.mark.parametrize("own", _PLACES, indirect=True)
"""The same with a house of the test's own."""


class Door:
    """A unix socket that leads to another one for as long as it is open."""

    def __init__(self, path: Path, to: str) -> None:
        self._path = path
        self._to = to
        self._lock = threading.Lock()
        self._through: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    def open(self) -> None:
        self._path.unlink(missing_ok=True)
        listener = self._listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen(128)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        """As when the engine dies: nobody listens, and what was connected is cut off."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
            listener.close()
        self._path.unlink(missing_ok=True)
        with self._lock:
            for one in self._through:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        """How many lead through it now."""
        with self._lock:
            return len(self._through) // 2

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                threading.Thread(target=self._pass, args=(listener, caller), daemon=True).start()

    def _pass(self, listener: socket.socket, caller: socket.socket) -> None:
        with caller, socket.socket(socket.AF_UNIX) as engine:
            with self._lock:
                if self._listener is not listener:
                    return
                self._through |= {caller, engine}
            try:
                with contextlib.suppress(OSError):
                    engine.connect(self._to)
                    _relay(caller, engine)
            finally:
                with self._lock:
                    self._through -= {caller, engine}


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Passes bytes both ways until both sides have said that they are done."""
    with selectors.DefaultSelector() as selector:
        for source, target in ((one, other), (other, one)):
            selector.register(source, selectors.EVENT_READ, (source, target))
        while selector.get_map():
            for key, _ in selector.select():
                source, target = key.data
                data = source.recv(_BLOCK)
                if data:
                    target.sendall(data)
                else:
                    selector.unregister(source)
                    target.shutdown(socket.SHUT_WR)


class DockerHouse(House):
    """Toys in containers of the engine that answers here. Skips the test where none does, or none has the base."""

    runtime = "docker"

    def __init__(self, toml: str = 'runtime = "docker"\n') -> None:
        base = local_base() if shutil.which("docker") else None
        if base is None:
            pytest.skip("docker: the engine has no local base image (images/make-base makes it)")
        images = f'[images]\nbase = "{base[0]}"\nbase_id = "{base[1]}"\n'
        toy = str(ROOT / "tests/fakes/toy_image")
        super().__init__(f"{toml}{images}", QWEND_TOY_IMAGE=toy)
        engine = find_address().socket
        assert engine is not None, "an engine of this machine"
        self._instance = ""
        door = self.home / "engine.sock"
        self.environ["DOCKER_HOST"] = f"unix://{door}"
        self.door = Door(door, engine)
        self.door.open()

    def close(self) -> None:
        self.door.open()
        self.containers()  # learns whose they are, before the home goes
        try:
            super().close()
        finally:
            for container in self.containers():
                subprocess.run(["docker", "rm", "-f", container["Id"]], capture_output=True, check=False)
            self.door.shut()

    def containers(self, step: str = "") -> list[dict[str, Any]]:
        """Every container of this house (of one step), ended ones too, inspected."""
        with contextlib.suppress(FileNotFoundError):  # before its first start, and after its end
            self._instance = (self.home / "instance").read_text().strip()
        if not self._instance:
            return []
        labels = [f"org.qwend.instance={self._instance}", *([f"org.qwend.step={step}"] if step else [])]
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        ids = _docker("ps", "-aq", "--no-trunc", *filters).stdout.split()
        found: list[dict[str, Any]] = []
        for one in ids:
            told = _docker("inspect", one)
            found += json.loads(told.stdout) if told.returncode == 0 else []  # else it went meanwhile
        return found

    def processes(self) -> dict[int, str]:
        """First processes of the containers that live, with their markers; and of what runs natively."""
        living = [one for one in self.containers() if one["State"]["Running"]]
        inside = {one["State"]["Pid"]: one["Config"]["Labels"]["org.qwend.marker"] for one in living}
        return {**super().processes(), **inside}

    def kin(self, key: str) -> list[int]:
        found = [
            one for one in self.containers() if f":{key}:" in one["Config"]["Labels"]["org.qwend.marker"]
        ]
        told = [_docker("top", one["Id"], "-eo", "pid").stdout.split()[1:] for one in found]
        return [int(word) for words in told for word in words]


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=120)
