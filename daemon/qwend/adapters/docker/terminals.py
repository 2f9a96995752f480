"""Containers that a client attaches its own terminal to: made here, started by the client's `docker` command.

They carry labels of their own, so nothing that supervises steps takes them for one. The engine removes one when it
ends; a client that was killed leaves one behind, which goes when its daemon hears of it, or the next one starts.
"""

from __future__ import annotations

import os
from typing import Any

from qwend.adapters.docker.containers import Containers
from qwend.adapters.docker.identity import CLIENT, OWNED, TERMINAL
from qwend.effects import Screen, Terminal


def attachable(body: dict[str, Any], instance: str, screen: Screen) -> dict[str, Any]:
    """The body of a step's container as that of an attached one. What is said in it is written nowhere. Pure."""
    owned = body["Labels"][OWNED]
    return {
        **body,
        "Env": [*body["Env"], f"TERM={screen.term}"],
        "Labels": {TERMINAL: instance, CLIENT: str(screen.client), OWNED: owned},
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": screen.tty,
        "HostConfig": {**body["HostConfig"], "AutoRemove": True, "LogConfig": {"Type": "none", "Config": {}}},
    }


class Terminals:
    """The attached containers of one instance, by the marker of their start."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._attached: dict[str, str] = {}

    async def ready(self, body: dict[str, Any], name: str, marker: str, screen: Screen) -> Terminal:
        """Makes the container; the command that starts it on a terminal. Raises Refused where the engine does."""
        instance, connection = self._containers.instance, self._containers.connection
        made = await self._containers.create(attachable(body, instance, screen), name)
        self._attached[marker] = made
        return Terminal(
            ("docker", "start", "--attach", "--interactive", made),
            {"DOCKER_HOST": connection.address().url, "DOCKER_CONTEXT": "", "DOCKER_CLI_HINTS": "false"},
            inherit=True,
        )

    async def end(self, marker: str) -> None:
        """Removes what is left of it, whether it was started or not."""
        made = self._attached.pop(marker, None)
        if made is not None:
            await self._containers.remove(made)

    async def sweep(self) -> None:
        """Removes those whose client is gone."""
        for listed in await self._containers.terminals():
            if listed["Id"] not in self._attached.values() and not _lives(listed["Labels"].get(CLIENT, "")):
                await self._containers.remove(listed["Id"])


def _lives(client: str) -> bool:
    try:
        os.kill(int(client), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
