"""The container of a step, as the Engine API is asked for it. Pure: from an order to a JSON document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qwend.adapters.docker.connection import Engine
from qwend.adapters.docker.identity import LOG, OWNED, labels
from qwend.adapters.docker.mounts import SCRATCH, Prepared, User
from qwend.core.binding import bind
from qwend.effects import Order

NETWORK = "qwend"
"""The bridge of all steps that have a network. Containers on it reach out, but not one another."""

CLOSED = "qwend-closed"
"""The bridge of services that have none: they are reached by their published port, and nothing that they send gets an
answer from beyond this machine, since their addresses are not translated. (An internal network would publish no ports.)
"""

PIDS = 4096
TMP_BYTES = 1 << 30
LOG_FILES = {"max-size": "8m", "max-file": "3"}
"""The engine's own bound on a container's output; our copy of it has its own (`logs`)."""


def container(
    order: Order, prepared: Prepared, user: User, engine: Engine, surroundings: Mapping[str, str]
) -> dict[str, Any]:
    """The body of `POST /containers/create`: a step that can do nothing but its work.

    No capabilities and no way to new ones, a read-only root, memory for temporary files, bounds on processes
    and memory, no network unless declared (a service without is reached and reaches nobody), ports on the host's
    loopback only, no restart but ours.
    `surroundings` is its environment before what the Launch sets.
    """
    argv, env = bind(order.launch, prepared.places)
    network = network_of(order)
    networked = network is not None
    environment = {**surroundings, **env}
    port = f"{order.port}/tcp" if order.port is not None and networked else None
    published = {"HostIp": _address(order.host), "HostPort": str(order.port)}
    host: dict[str, Any] = {
        "AutoRemove": False,  # its exit code must be found after a crash of the daemon
        "RestartPolicy": {"Name": "no"},
        "Init": True,  # reaps zombies and passes signals on
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "IpcMode": "private",
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,exec,mode=1777,size={TMP_BYTES}"},
        "Mounts": [mount.as_json() for mount in prepared.mounts],
        "NetworkMode": network or "none",
        "PortBindings": {port: [published]} if port else {},
        "LogConfig": {"Type": "json-file", "Config": dict(LOG_FILES)},
        "OomScoreAdj": 500,  # where the whole machine runs out of memory, steps go before the daemon
        "Ulimits": [
            {"Name": name, "Soft": most, "Hard": most} for name, most in (("core", 0), *engine.ulimits)
        ],
    }
    if engine.limits:
        host["PidsLimit"] = PIDS
        if order.memory is not None:
            host["Memory"] = host["MemorySwap"] = order.memory  # equal: no swap on top
    if network == CLOSED:
        host["Dns"] = [
            "127.0.0.1"
        ]  # nobody there: a name is refused at once, in place of a wait for an answer
    if order.launch.shm is not None:
        host["ShmSize"] = order.launch.shm
    if order.gpus:
        host["DeviceRequests"] = [
            {"DeviceIDs": list(order.gpus), "Capabilities": [["gpu", "compute", "utility"]]}
        ]
    return {
        "Image": order.image.location,
        "Entrypoint": list(argv),  # as the entry point: then no entry point of the image comes before it
        "Cmd": [],
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "User": user.spec,
        "WorkingDir": SCRATCH if order.scratch is not None else "/tmp",
        "Hostname": re.sub(r"[^a-z0-9]+", "-", order.identity.step.lower()).strip("-")[:40] or "step",
        "Labels": {**labels(order.identity), LOG: order.log, OWNED: "\n".join(prepared.owned)},
        "ExposedPorts": {port: {}} if port else {},
        "Healthcheck": {"Test": ["NONE"]},  # qwend probes; a second opinion of the image would only cost
        "StopSignal": "SIGTERM",
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "NetworkDisabled": not networked,
        "HostConfig": host,
    }


def network_of(order: Order) -> str | None:
    """The network that the container of a step is on; None: it has no more than a loopback of its own."""
    if order.launch.network:
        return NETWORK
    return CLOSED if order.service else None


def _address(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host
