"""Fault 29: two daemons of one home, and the socket of a dead one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import qwend
from qwend.adapters.lock import DaemonLock, remove_stale_socket
from qwend.errors import QwendError

DAEMON = """
import os, socket, sys
from qwend.adapters.lock import DaemonLock, remove_stale_socket
home = sys.argv[1]
lock = DaemonLock.take(home, 0.0)
path = os.path.join(home, "qwend.sock")
remove_stale_socket(path)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
print("serving", flush=True)
sys.stdin.read()
"""


def daemon(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(home)],
        env={**os.environ, "PYTHONPATH": str(Path(qwend.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_29_the_second_daemon_is_refused_and_told_who_holds_the_home(tmp_path: Path) -> None:
    first = daemon(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "serving\n"
    second = daemon(tmp_path)
    _, complaint = second.communicate()
    assert second.returncode == 1
    assert f"another daemon serves {tmp_path} (pid {first.pid}, qwend {qwend.__version__})" in complaint
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "qwend.sock"))
    first.kill()
    first.communicate()


def test_29_the_socket_and_the_lock_of_a_killed_daemon_stand_in_nobodys_way(tmp_path: Path) -> None:
    first = daemon(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "serving\n"
    first.kill()
    first.communicate()
    assert (tmp_path / "qwend.sock").exists()
    second = daemon(tmp_path)
    assert second.stdout is not None
    assert second.stdout.readline() == "serving\n"
    second.communicate("")
    assert second.returncode == 0


def test_29_a_socket_on_which_a_stranger_listens_is_never_taken_away(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stranger, DaemonLock.take(str(tmp_path), 0.0):
        stranger.bind(str(tmp_path / "qwend.sock"))
        stranger.listen()
        with pytest.raises(QwendError, match="without holding the lock"):
            remove_stale_socket(str(tmp_path / "qwend.sock"))
        assert (tmp_path / "qwend.sock").exists()
