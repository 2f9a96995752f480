"""Where the engine is: DOCKER_HOST, a docker context, the usual socket, or a rootless one."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from qwend.adapters.docker_version import refusal
from qwend.errors import Unreachable, UsageError

DEFAULT = "unix:///var/run/docker.sock"


class Address(msgspec.Struct, frozen=True):
    """`url` as in DOCKER_HOST, which the `docker` command takes too; `tls` as the package wants it."""

    url: str
    tls: Any = False

    @property
    def socket(self) -> str | None:
        """The path of its unix socket; None where it has none."""
        return self.url.removeprefix("unix://") if self.url.startswith("unix://") else None


def find_address(environment: Mapping[str, str] | None = None) -> Address:
    """The engine that the `docker` command would talk to; where it would find none, the user's rootless one.

    Raises UsageError for an engine on another machine: bind mounts are paths of the engine's machine.
    """
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    given = dict(os.environ if environment is None else environment)
    asked: dict[str, Any] = dict(kwargs_from_env(environment=given or {"": ""}))
    if "base_url" not in asked:
        asked = {**ContextAPI.kwargs_from_context(environment=given), **asked}
    url = str(asked.get("base_url") or DEFAULT).replace("http+unix://", "unix://")
    rootless = Path(given.get("XDG_RUNTIME_DIR") or "/nonexistent") / "docker.sock"
    if url == DEFAULT and not Path(DEFAULT.removeprefix("unix://")).exists() and rootless.exists():
        url = f"unix://{rootless}"
    _require_local(url)
    return Address(url, asked.get("tls") or False)


def require_listener(address: Address) -> None:
    """Raises Unreachable where nobody listens: cheaper than asking, and it names the reason."""
    path = address.socket
    if path is None:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except PermissionError:
            raise Unreachable(
                f"Docker Engine cannot be used: {refusal(path)}",
                hint="join the group (usermod -aG docker USER, then log in again), or use rootless Docker",
            ) from None
        except OSError as error:
            raise gone(address, error.strerror or str(error)) from None


def gone(address: Address, why: str) -> Unreachable:
    """The error for an engine that does not answer."""
    return Unreachable(
        f"Docker Engine does not answer at {address.url}: {why}",
        hint="start it (systemctl start docker), set DOCKER_HOST or a context, or take --runtime native",
    )


def _require_local(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme in {"unix", "npipe"}:
        return
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local or parts.scheme == "ssh":
        raise UsageError(
            f"Docker Engine at {url} is on another machine, where this one's files are not to be seen",
            code="remote-engine",
            hint="run qwend there, or unset DOCKER_HOST, or choose a local docker context",
        )
