from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qwend.adapters.native.places import Places, private_folder, socket_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_sockets_lie_in_the_home_where_their_paths_are_short_enough(folder: Path) -> None:
    places = Places.of(folder)
    assert places.socket.parent == places.folder == folder / "supervisor"
    assert mode(places.folder) == 0o700


def test_a_long_home_has_its_sockets_in_the_runtime_folder(tmp_path: Path, folder: Path) -> None:
    home = tmp_path / ("x" * 100)
    (home / "supervisor").mkdir(parents=True)
    chosen = socket_folder(home / "supervisor", {"XDG_RUNTIME_DIR": str(folder)})
    assert chosen.parent == folder
    assert mode(chosen) == 0o700


def test_the_next_daemon_finds_the_sockets_whatever_its_environment(tmp_path: Path, folder: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    chosen = socket_folder(deep, {"XDG_RUNTIME_DIR": str(folder)})
    assert socket_folder(deep, {}) == chosen


def test_a_note_that_a_full_disk_left_empty_is_not_believed(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep, elsewhere = tmp_path / ("x" * 100), tmp_path / "elsewhere"
    deep.mkdir()
    elsewhere.mkdir(mode=0o755)
    (deep / "sockets").write_text("")
    monkeypatch.chdir(elsewhere)
    assert socket_folder(deep, {"XDG_RUNTIME_DIR": str(folder)}).parent == folder
    assert mode(elsewhere) == 0o755


def test_a_folder_is_private_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_folder(tmp_path / "a")
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == 0o700
    (tmp_path / "a").chmod(0o777)
    private_folder(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o700


def test_a_link_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(FileExistsError, match="not a folder of this user"):
        private_folder(tmp_path / "link")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's folder")
def test_another_user_s_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(FileExistsError, match="not a folder of this user"):
        private_folder(tmp_path / "theirs")
