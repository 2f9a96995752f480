"""The daemon as a service of the user's session: a systemd user unit, a launchd agent."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Mapping

from qwend import paths
from qwend.errors import UsageError

_LABEL = "qwend"
_PASSED = ("QWEND_HOME", "QWEND_CONFIG")


class Unit:
    """A file that the system's service manager reads, and the commands that make it take it up."""

    def __init__(
        self,
        path: str,
        text: str,
        take_up: list[list[str]],
        let_go: list[list[str]],
        forget: list[str] | None = None,
    ) -> None:
        """`forget` lets an earlier one go first; that there is none is no news."""
        self.path = path
        self.text = text
        self._take_up = take_up
        self._let_go = let_go
        self._forget = forget

    def install(self) -> list[str]:
        """Writes the file and has it taken up; a line for everything that was done."""
        home = paths.home()
        # launchd opens the log, and makes no folder for it.
        for folder in (home, os.path.dirname(paths.daemon_log(home))):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(self.text)
        if self._forget is not None and shutil.which(self._forget[0]) is not None:
            subprocess.run(self._forget, capture_output=True, check=False)
        return [f"wrote {self.path}", *_run(self._take_up)]

    def remove(self) -> list[str]:
        """Undoes `install`; what the daemon runs goes on until it is asked to stop."""
        if not os.path.exists(self.path):
            return [f"there is no {self.path}"]
        said = _run(self._let_go)
        os.unlink(self.path)
        return [*said, f"removed {self.path}"]


def unit(platform: str = sys.platform, environ: Mapping[str, str] | None = None) -> Unit:
    """The unit for this system and this QWEND_HOME."""
    environ = os.environ if environ is None else environ
    command = [sys.executable, "-P", "-m", "qwend.daemon"]
    passed = {name: environ[name] for name in _PASSED if environ.get(name)}
    user = os.path.expanduser("~")
    if platform == "darwin":
        path = os.path.join(user, "Library/LaunchAgents", f"{_LABEL}.plist")
        domain = f"gui/{os.getuid()}"
        bootout = ["launchctl", "bootout", f"{domain}/{_LABEL}"]
        passed |= (
            {"PATH": environ["PATH"]} if environ.get("PATH") else {}
        )  # launchd's own holds no /usr/local/bin
        take_up = [["launchctl", "bootstrap", domain, path]]
        return Unit(path, _plist(command, passed), take_up, [bootout], forget=bootout)
    if platform != "linux":
        raise UsageError(
            f"there is no service manager for {platform}",
            code="no-manager",
            hint="start it with `qwend daemon start`",
        )
    given = environ.get("XDG_CONFIG_HOME", "")
    folder = given if given.startswith("/") else os.path.join(user, ".config")
    path = os.path.join(folder, "systemd/user", f"{_LABEL}.service")
    systemctl = ["systemctl", "--user"]
    take_up = [[*systemctl, "daemon-reload"], [*systemctl, "enable", "--now", f"{_LABEL}.service"]]
    let_go = [[*systemctl, "disable", f"{_LABEL}.service"], [*systemctl, "daemon-reload"]]
    return Unit(path, _service(command, passed), take_up, let_go)


def _service(command: list[str], environment: Mapping[str, str]) -> str:
    """KillMode=process: services are the daemon's neighbours in its control group, and outlive it."""
    lines = [f"Environment={_quoted(f'{name}={value}')}" for name, value in environment.items()]
    return "\n".join(
        [
            "[Unit]",
            "Description=qwend: recipes that become running Qwen models",
            "After=network-online.target",
            "",
            "[Service]",
            f"ExecStart={' '.join(map(_quoted, command))}",
            *lines,
            "Restart=on-failure",
            "KillMode=process",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def _quoted(word: str) -> str:
    """A word of a unit file: `%` and `$` mean themselves, spaces do not split."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _plist(command: list[str], environment: Mapping[str, str]) -> str:
    """AbandonProcessGroup: services outlive the daemon."""
    log = paths.daemon_log(paths.home())
    return plistlib.dumps(
        {
            "Label": _LABEL,
            "ProgramArguments": command,
            "EnvironmentVariables": dict(environment),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "AbandonProcessGroup": True,
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
    ).decode()


def _run(commands: list[list[str]]) -> list[str]:
    """Runs what the service manager must be told; where it is not there, says what to type when it is."""
    said = []
    for command in commands:
        line = " ".join(command)
        if shutil.which(command[0]) is None:
            said.append(f"{command[0]} is not here; where it is: {line}")
            continue
        ended = subprocess.run(command, capture_output=True, text=True)
        trouble = (ended.stderr or ended.stdout).strip().splitlines()
        said.append(
            f"ran {line}"
            if ended.returncode == 0
            else f"{line} failed: {trouble[-1] if trouble else ended.returncode}"
        )
    return said
