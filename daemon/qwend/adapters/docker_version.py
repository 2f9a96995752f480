"""Whether a Docker Engine answers, and which: two small requests on its socket, without the docker package
(whose import alone costs more than the look)."""

from __future__ import annotations

import asyncio
import grp
import hashlib
import os
import pwd
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from qwend.adapters.http1 import BadAnswer, request

TIMEOUT_S = 1.0
_LIMIT = 4 << 20


def address(environ: Mapping[str, str]) -> tuple[str, int] | str | None:
    """Where the engine should be, by the rules of the docker command: DOCKER_HOST, else the chosen context
    (DOCKER_CONTEXT, or that of its configuration), else the first socket that exists of the usual ones.

    A unix socket's path, or host and port; None where there is none, or where it takes ssh or TLS to ask.
    """
    given = environ.get("DOCKER_HOST") or _host_of_context(environ)
    if given:
        parts = urlsplit(given)
        if parts.scheme == "unix":
            return given.removeprefix("unix://")
        if parts.scheme in {"tcp", "http"} and parts.hostname and not environ.get("DOCKER_TLS_VERIFY"):
            return parts.hostname, parts.port or 2375
        return None
    usual = ["/var/run/docker.sock", "/run/docker.sock"]
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        usual.append(os.path.join(runtime, "docker.sock"))
    if home := environ.get("HOME"):
        usual += [
            os.path.join(home, ".docker/run/docker.sock"),
            os.path.join(home, ".docker/desktop/docker.sock"),
        ]
    return next((path for path in usual if os.path.exists(path)), None)


def _host_of_context(environ: Mapping[str, str]) -> str:
    """The address of the chosen context; empty for the default one."""
    folder = environ.get("DOCKER_CONFIG") or os.path.join(environ.get("HOME", ""), ".docker")
    name = environ.get("DOCKER_CONTEXT") or _json(os.path.join(folder, "config.json")).get("currentContext")
    if not isinstance(name, str) or name in {"", "default"}:
        return ""
    digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()
    found: Any = _json(os.path.join(folder, "contexts/meta", digest, "meta.json"))
    for member in ("Endpoints", "docker", "Host"):
        found = found.get(member) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = msgspec.json.decode(file.read(_LIMIT))
    except (OSError, ValueError, msgspec.DecodeError):
        return {}
    return found if isinstance(found, dict) else {}


async def engine_version(environ: Mapping[str, str]) -> str | None:
    """The engine's version; None if none answers in time (or this user may not ask)."""
    answer = await _ask(environ, "/version")
    version = answer.get("Version")
    return version if isinstance(version, str) and version else None


async def engine_refuses(environ: Mapping[str, str]) -> str | None:
    """Why this user may not ask an engine whose socket is there; None if that is not what is the matter."""
    where = address(environ)
    if not isinstance(where, str):
        return None
    return await asyncio.to_thread(refusal, where)


def refusal(path: str) -> str | None:
    """Whom a unix socket is for, if this process may not open it: `its socket … is for root and the group docker`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(TIMEOUT_S)
        try:
            probe.connect(path)
        except PermissionError:
            return f"its socket {path} is for {_whom(path)}, and this daemon runs without that"
        except OSError:
            return None
    return None


def _whom(path: str) -> str:
    try:
        found = os.stat(path)
        owner, group = pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid).gr_name
    except (OSError, KeyError):
        return "others"
    return f"{owner} and the group {group}" if found.st_mode & 0o060 == 0o060 else f"{owner} alone"


async def engine_gives_gpus(environ: Mapping[str, str]) -> bool | None:
    """Whether a container can be given an NVIDIA card (container toolkit, or its CDI specification).

    None if it cannot be told.
    """
    answer = await _ask(environ, "/info")
    if not answer:
        return None
    devices = answer.get("DiscoveredDevices") or []
    cdi = any("nvidia" in str(device.get("ID", "")) for device in devices if isinstance(device, dict))
    return "nvidia" in (answer.get("Runtimes") or {}) or cdi


async def _ask(environ: Mapping[str, str], target: str) -> dict[str, Any]:
    where = address(environ)
    if where is None:
        return {}
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer = await request(where, target, limit=_LIMIT)
        found = msgspec.json.decode(answer.body) if answer.status == 200 else {}
    except (TimeoutError, OSError, BadAnswer, ValueError, msgspec.DecodeError):
        return {}
    return found if isinstance(found, dict) else {}
