"""Where qwend keeps its things, on either system and in any environment."""

from __future__ import annotations

import os
import sys

import pytest

from qwend import paths
from qwend.errors import UsageError


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.fixture
def no_login_session(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: not str(path).startswith("/run/user/") and real(path))


@pytest.mark.usefixtures("linux")
def test_the_home_is_where_the_environment_or_the_platform_says() -> None:
    assert paths.home({"QWEND_HOME": "/data/q/", "HOME": "/home/me"}) == "/data/q"
    assert paths.home({"HOME": "/home/me"}) == "/home/me/.local/share/qwend"
    assert paths.home({"HOME": "/home/me", "XDG_DATA_HOME": "/x"}) == "/x/qwend"
    assert paths.home({"HOME": "/home/me", "XDG_DATA_HOME": "relative"}) == "/home/me/.local/share/qwend"
    assert paths.config({"HOME": "/home/me"}) == "/home/me/.config/qwend/qwend.toml"
    assert paths.config({"HOME": "/home/me", "QWEND_CONFIG": "/etc/q.toml"}) == "/etc/q.toml"


def test_a_mac_has_its_own_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert paths.home({"HOME": "/Users/me"}) == "/Users/me/Library/Application Support/qwend"
    assert paths.config({"HOME": "/Users/me"}) == "/Users/me/Library/Application Support/qwend/qwend.toml"


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(UsageError, match="HOME is not set"):
        paths.home({})


@pytest.mark.usefixtures("no_login_session")
def test_a_socket_whose_path_would_be_too_long_lies_in_a_short_folder_of_this_home_alone() -> None:
    assert paths.socket("/home/me/q", {}) == "/home/me/q/qwend.sock"
    long, other = "/data/" + "x" * 120, "/data/" + "y" * 120
    found = paths.socket(long, {"XDG_RUNTIME_DIR": "/run/user/7"})
    assert found.startswith("/run/user/7/qwend-")
    assert len(os.fsencode(found)) <= paths.SOCKET_LIMIT
    assert paths.socket(other, {"XDG_RUNTIME_DIR": "/run/user/7"}) != found
    assert paths.socket(long, {}).startswith("/tmp/qwend-")
    assert paths.socket(long, {}).endswith(f"-{os.getuid()}/qwend.sock")
    assert paths.socket("/数据/" + "长" * 40, {}).startswith("/tmp/"), "bytes count, not characters"


def test_a_client_without_the_variable_meets_the_daemon_of_a_login_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = f"/run/user/{os.getuid()}"
    monkeypatch.setattr(os.path, "isdir", lambda path: path == folder)
    long = "/data/" + "x" * 120
    assert paths.socket(long, {}) == paths.socket(long, {"XDG_RUNTIME_DIR": folder})
