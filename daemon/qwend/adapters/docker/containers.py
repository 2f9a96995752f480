"""What is asked of the engine about containers: each call one sentence, blocking work in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from qwend.adapters.docker.connection import Change, Connection, Engine, Refused
from qwend.adapters.docker.container import CLOSED
from qwend.adapters.docker.exits import LIVING
from qwend.adapters.docker.identity import INSTANCE, MARKER, TERMINAL

_NAME_FREED_S = 5.0


class Containers:
    """The containers of one instance. Every method raises Unreachable where no engine answers."""

    def __init__(self, instance: str, connection: Connection) -> None:
        self.instance = instance
        self.connection = connection
        self._engine: Engine | None = None
        self._networks: set[str] = set()

    async def engine(self) -> Engine:
        """What the engine is; asked once."""
        if self._engine is None:
            self._engine = await self.connection.engine()
        return self._engine

    async def image(self, image: str) -> dict[str, Any]:
        """An image, inspected."""
        found: dict[str, Any] = await self.connection.call(lambda client: client.inspect_image(image))
        return found

    async def all(self, marker: str | None = None) -> list[dict[str, Any]]:
        """Every container of this instance (or of one start of one step), inspected."""
        wanted = [f"{INSTANCE}={self.instance}"]
        if marker is not None:
            wanted.append(f"{MARKER}={marker}")

        def look(client: Any) -> list[dict[str, Any]]:
            listed = client.containers(all=True, filters={"label": wanted})
            found = (_inspect(client, one["Id"]) for one in listed)
            return [inspected for inspected in found if inspected is not None]

        found: list[dict[str, Any]] = await self.connection.call(look)
        return found

    async def terminals(self) -> list[dict[str, Any]]:
        """The containers that clients of this instance are attached to, as the engine lists them."""
        wanted = [f"{TERMINAL}={self.instance}"]
        listed: list[dict[str, Any]] = await self.connection.call(
            lambda client: client.containers(all=True, filters={"label": wanted})
        )
        return listed

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """A container, or None where there is none of that id."""
        found: dict[str, Any] | None = await self.connection.call(lambda client: _inspect(client, container))
        return found

    async def create(self, body: dict[str, Any], name: str) -> str:
        """The new container's id. A name that was removed a moment ago is still taken: it is waited for."""
        waited = 0.0
        while True:
            try:
                made = await self.connection.call(
                    lambda client: client.create_container_from_config(body, name=name)
                )
                return str(made["Id"])
            except Refused as error:
                if error.status != 409 or waited >= _NAME_FREED_S:
                    raise
            await asyncio.sleep(0.1)
            waited += 0.1

    async def start(self, container: str) -> None:
        """Starts a created container, and removes it where the engine refuses."""
        try:
            await self.connection.call(lambda client: client.start(container))
        except BaseException:
            await self.remove(container)
            raise

    async def signal(self, container: str, signal: str) -> None:
        """Signals the container's first process; one that has just ended is no error."""
        try:
            await self.connection.call(lambda client: client.kill(container, signal))
        except Refused:
            inspected = await self.inspect(container)
            if inspected is not None and inspected["State"]["Status"] in LIVING:
                raise

    async def unpause(self, container: str) -> None:
        """Lets a paused container go on: it could not end otherwise."""
        await self._tolerant(lambda client: client.unpause(container))

    async def remove(self, container: str) -> None:
        """Removes a container, whatever its state."""
        await self._tolerant(lambda client: client.remove_container(container, v=True, force=True))

    async def ends_within(self, container: str, seconds: float) -> bool:
        """Waits until the container has ended; False if it did not in time."""
        clock = asyncio.get_running_loop()
        deadline, pause = clock.time() + seconds, 0.02
        while True:
            inspected = await self.inspect(container)
            if inspected is None or inspected["State"]["Status"] not in LIVING:
                return True
            left = deadline - clock.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, 0.25)

    async def ensure_network(self, name: str) -> None:
        """A bridge for steps; on it they do not reach one another."""
        if name in self._networks:
            return
        options = {"com.docker.network.bridge.enable_icc": "false"}
        if name == CLOSED:
            options["com.docker.network.bridge.enable_ip_masquerade"] = "false"

        def ensure(client: Any) -> None:
            if not any(network["Name"] == name for network in client.networks(names=[name])):
                client.create_network(
                    name,
                    driver="bridge",
                    check_duplicate=True,
                    options=options,
                    labels={"org.qwend.network": "steps"},
                )

        await self._tolerant(ensure)  # in conflict: another daemon made it at the same moment
        self._networks.add(name)

    def changes(self) -> AsyncIterator[Change]:
        """What happens to them, without end (`Connection.changes`)."""
        return self.connection.changes(f"{INSTANCE}={self.instance}")

    async def _tolerant(self, work: Any) -> None:
        """A call whose aim is reached, or will be by another caller, where the engine says 404 or 409."""
        try:
            await self.connection.call(work)
        except Refused as error:
            if error.status not in {404, 409}:
                raise


def _inspect(client: Any, container: str) -> dict[str, Any] | None:
    import docker.errors

    try:
        found: dict[str, Any] = client.inspect_container(container)
        return found
    except docker.errors.NotFound:
        return None
