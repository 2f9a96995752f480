"""Where qwend keeps its things, for the daemon and its clients alike. Reads no file.

`$QWEND_HOME` (default: the platform's data folder) is a 0700 folder with the socket, `state.db`, `store/`,
`images/`, `logs/` and `instance`. Configuration is `qwend.toml` in the platform's configuration folder.
Paths are absolute and plain strings: `pathlib` would cost every run of the command line 2 ms.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from qwend.errors import UsageError

SOCKET_LIMIT = 103
"""Longest path of a unix socket in bytes: 107 on Linux, 103 on macOS (`sun_path` less its NUL)."""


def home(environ: Mapping[str, str] | None = None) -> str:
    """The folder of this user's daemon. UsageError where neither QWEND_HOME nor HOME says one."""
    environ = os.environ if environ is None else environ
    if given := environ.get("QWEND_HOME"):
        return os.path.abspath(os.path.expanduser(given))
    if sys.platform == "darwin":
        return os.path.join(_user(environ), "Library/Application Support/qwend")
    return os.path.join(_folder(environ, "XDG_DATA_HOME", ".local/share"), "qwend")


def config(environ: Mapping[str, str] | None = None) -> str:
    """The path of `qwend.toml` (QWEND_CONFIG names another); it need not exist."""
    environ = os.environ if environ is None else environ
    if given := environ.get("QWEND_CONFIG"):
        return os.path.abspath(os.path.expanduser(given))
    if sys.platform == "darwin":
        return os.path.join(_user(environ), "Library/Application Support/qwend/qwend.toml")
    return os.path.join(_folder(environ, "XDG_CONFIG_HOME", ".config"), "qwend/qwend.toml")


def socket(home: str, environ: Mapping[str, str] | None = None) -> str:
    """The daemon's socket: in `home`, or in the runtime folder where that path would be too long."""
    path = os.path.join(home, "qwend.sock")
    fits = len(os.fsencode(path)) <= SOCKET_LIMIT
    return path if fits else os.path.join(runtime(home, environ), "qwend.sock")


def runtime(home: str, environ: Mapping[str, str] | None = None) -> str:
    """A short folder for the sockets of this home, and of no other: it is named by the home's digest.

    Whoever listens there makes it, 0700, and checks its owner.
    """
    import hashlib

    environ = os.environ if environ is None else environ
    name = "qwend-" + hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    given = environ.get("XDG_RUNTIME_DIR", "")
    if not given.startswith("/"):
        # A daemon of systemd has the variable and a client of cron has not: they must meet all the same.
        given = f"/run/user/{os.getuid()}"
        if not os.path.isdir(given):
            return f"/tmp/{name}-{os.getuid()}"
    return os.path.join(given, name)


def daemon_log(home: str) -> str:
    """What the daemon itself says."""
    return os.path.join(home, "logs", "daemon.log")


def client_log(home: str) -> str:
    """Tracebacks of the command line: they never reach a terminal."""
    return os.path.join(home, "logs", "client.log")


def _folder(environ: Mapping[str, str], name: str, default: str) -> str:
    """An XDG folder; a relative value is ignored, as the specification asks."""
    given = environ.get(name, "")
    return given if given.startswith("/") else os.path.join(_user(environ), default)


def _user(environ: Mapping[str, str]) -> str:
    given = environ.get("HOME", "")
    if given.startswith("/"):
        return given
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        raise UsageError("no home folder: HOME is not set", hint="set QWEND_HOME to a folder") from None
