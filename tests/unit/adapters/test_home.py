"""The daemon's folder belongs to one user and one instance; one daemon at a time serves it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qwend.adapters import lock as lock_room
from qwend.adapters.home import instance_id, make_private
from qwend.adapters.lock import DaemonLock, holder, remove_stale_socket
from qwend.errors import QwendError, UsageError


def test_the_home_is_made_private_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(str(tmp_path / "a/b"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o700


def test_an_open_home_is_closed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    make_private(str(tmp_path / "home"))
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_a_home_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(UsageError, match=r"belongs to uid \d+, and this is uid 4321"):
        make_private(str(tmp_path / "home"))


def test_a_file_in_the_place_of_the_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        make_private(str(tmp_path / "home"))


def test_an_instance_keeps_its_id_and_shares_it_with_no_other_home(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = instance_id(str(tmp_path / "a"))
    assert len(first) == 16
    assert instance_id(str(tmp_path / "a")) == first
    assert instance_id(str(tmp_path / "b")) != first
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["instance"]


def test_a_broken_instance_file_is_told_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "instance").write_text("")
    with pytest.raises(QwendError, match="does not hold an instance id"):
        instance_id(str(tmp_path))
    assert (tmp_path / "instance").read_text() == ""


def test_the_second_daemon_is_told_who_the_first_is(tmp_path: Path) -> None:
    with DaemonLock.take(str(tmp_path), 0.0):
        with pytest.raises(QwendError, match=rf"another daemon serves .* \(pid {os.getpid()}, qwend \d"):
            DaemonLock.take(str(tmp_path), 0.0)
        assert holder(str(tmp_path)) is not None
    assert holder(str(tmp_path)) is None
    DaemonLock.take(str(tmp_path), 0.0).release()


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from qwend.adapters.lock import DaemonLock\n"
        "held = DaemonLock.take(sys.argv[1], 0.0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    package = Path(lock_room.__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(package)},
        check=False,
    )
    assert ended.returncode == -9
    assert holder(str(tmp_path)) is not None
    DaemonLock.take(str(tmp_path), 0.0).release()


def test_a_stale_socket_is_removed_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    assert not remove_stale_socket(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        with pytest.raises(QwendError, match="somebody listens"):
            remove_stale_socket(path)
    assert remove_stale_socket(path)
    assert not os.path.exists(path)


def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(QwendError, match="it is no socket"):
        remove_stale_socket(str(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "mine"
