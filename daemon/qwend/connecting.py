"""Finding the daemon of a home: connecting to it, starting it where none runs, ending it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

from qwend import __version__, paths
from qwend.client import API, Client, Json
from qwend.errors import Unreachable

START_TIMEOUT_S = 30.0
ENDING_TIMEOUT_S = 10.0


def connect(
    *,
    start: bool = True,
    home: str | None = None,
    outdated: Callable[[Json], bool] | None = None,
    starting: Callable[[str], None] | None = None,
    unheeded: Callable[[str], None] | None = None,
) -> Client:
    """A Client of the daemon of `home`, which is started if none runs and `start` is true.

    `outdated` is asked, with the daemon's `/v1/version`, when the daemon is of another version; where it says
    True the daemon is restarted (services live on), else it is used as long as it speaks this API.
    `starting` is told the path of the log of a daemon that is being started, `unheeded` that one runs which began
    with another qwend.toml than QWEND_CONFIG names.
    """
    home = home or paths.home()
    client = Client(paths.socket(home))
    try:
        hello = client.get("/v1/version")
    except Unreachable as error:
        if not start or error.code != "no-daemon":
            raise
        start_daemon(home, starting)
        hello = client.get("/v1/version")
    else:
        _check_config(hello, unheeded)
    if hello.get("version") != __version__ and outdated is not None and outdated(hello):
        restart_daemon(client, home)
        hello = client.get("/v1/version")
    if hello.get("api") != API:
        raise Unreachable(
            f"the daemon is qwend {hello.get('version')} and speaks version {hello.get('api')} of the API; "
            f"this is qwend {__version__}, which speaks {API}",
            code="version-mismatch",
            hint="restart it with `qwend daemon stop && qwend daemon start`: services live on",
        )
    return client


def _check_config(hello: Json, unheeded: Callable[[str], None] | None) -> None:
    """A QWEND_CONFIG that does nothing is not passed over in silence. Raises UsageError for one that is not there."""
    if not os.environ.get("QWEND_CONFIG"):
        return
    asked, read = paths.config(), hello.get("config")
    if not os.path.exists(asked):
        from qwend import settings

        settings.load()  # which says so
    if unheeded is not None and "config" in hello and asked != read:
        unheeded(
            f"the daemon that runs began with {read or 'no qwend.toml'}, and QWEND_CONFIG names {asked}: "
            "`qwend daemon stop`, and the next command starts it with that (services live on)"
        )


def start_daemon(home: str, starting: Callable[[str], None] | None = None) -> None:
    """Starts a daemon that outlives this process; returns when it answers.

    Two who start at once end with one daemon: the second finds the lock taken and leaves. One that is just
    ending is waited for. Raises UsageError for a qwend.toml that is wrong, Unreachable with the log's last lines if
    none comes up.
    """
    import subprocess

    from qwend import settings

    settings.load()  # what is wrong with it is told here, with its place, and not in the log of a daemon that ends
    log = paths.daemon_log(home)
    _make_home(home, log)
    client = Client(paths.socket(home))
    if _wait(lambda: _answers(client) or not _held(home), ENDING_TIMEOUT_S) and _answers(client):
        return
    size = os.path.getsize(log) if os.path.exists(log) else 0
    if starting is not None:
        starting(log)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "qwend.daemon"],
            cwd=home,
            env={**os.environ, "QWEND_HOME": home},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def over() -> bool:
        return process.poll() is not None and not _held(home)

    _wait(lambda: _answers(client) or over(), START_TIMEOUT_S)
    code = process.poll()
    if _answers(client):
        process.returncode = code or 0  # it outlives this process, which is not to wait for it
        return
    last = _last_lines(log, size)
    how = f"ended with exit code {code}" if code is not None else "does not answer"
    raise Unreachable(
        f"the daemon was started and {how}" + (f"; it said: {last}" if last else ""),
        code="daemon-start",
        hint=f"its log is {log}",
    )


def restart_daemon(client: Client, home: str) -> None:
    """Replaces the daemon by one of this version. Services live on: the new one adopts them."""
    stop_daemon(client, home, services=False)
    start_daemon(home)


def stop_daemon(client: Client, home: str, *, services: bool) -> None:
    """Asks the daemon to end, with its services or without, and returns when it is gone."""
    patient = Client(client.path, timeout_s=None)  # services have their grace
    patient.post("/v1/daemon/stop", {"services": services})
    if not _wait(lambda: not _answers(client) and not _held(home), START_TIMEOUT_S):
        raise Unreachable("the daemon was asked to stop and is still there", code="daemon-stop")


def _answers(client: Client) -> bool:
    try:
        client.get("/v1/version")
    except Unreachable:
        return False
    return True


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    """Waits until something is so; False if it is not in this time."""
    import time

    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _held(home: str) -> bool:
    """Whether a daemon holds the lock of this home: one that answers, or that is just coming or going.

    Only the note in the lock is read: to try the lock would get in the way of one that takes it.
    """
    try:
        with open(os.path.join(home, "daemon.lock"), "rb") as file:
            os.kill(json.loads(file.read(4096))["pid"], 0)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _make_home(home: str, log: str) -> None:
    try:
        os.makedirs(home, mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(log), mode=0o700, exist_ok=True)
    except OSError as error:
        raise Unreachable(
            f"cannot make the folder {error.filename}: {error.strerror}",
            code="no-home",
            hint="set QWEND_HOME to a folder that you may write",
        ) from None


def _last_lines(log: str, since: int, count: int = 3) -> str:
    """What was written to the log since `since` bytes: its last lines, joined, of a traceback only the end."""
    try:
        with open(log, "rb") as file:
            file.seek(since)
            lines = file.read()[-8192:].decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    said = [line for line in lines if line.strip() and not line.startswith((" ", "Traceback"))]
    return " | ".join(said[-count:])
