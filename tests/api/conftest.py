"""One real daemon for the API tests: its own home, its own process, its real socket. No image is realised here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwend.client import Client

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """The home of a daemon that runs as long as the tests do."""
    folder = Path(tempfile.mkdtemp(prefix="qwend-api-"))
    (folder / "qwend.toml").write_text('runtime = "native"\n')
    environ = {
        **os.environ,
        "QWEND_HOME": str(folder),
        "QWEND_CONFIG": str(folder / "qwend.toml"),
        "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in ("daemon", "plugins", "images")),
        "DOCKER_HOST": "unix:///nowhere/docker.sock",
    }
    daemon = subprocess.Popen([sys.executable, "-P", "-m", "qwend.daemon"], env=environ)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "qwend.sock").exists():
            assert daemon.poll() is None, "the daemon ended at its start"
            assert time.monotonic() < deadline, "the daemon does not listen"
            time.sleep(0.05)
        yield folder
    finally:
        daemon.send_signal(signal.SIGTERM)
        ended = daemon.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
        assert ended == 0


@pytest.fixture
def client(home: Path) -> Client:
    return Client(str(home / "qwend.sock"))
