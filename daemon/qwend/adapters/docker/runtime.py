"""The `docker` runtime: one hardened container for each start of a step, found again by its labels."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from qwend.adapters.docker import mounts
from qwend.adapters.docker.connection import Connection, Refused
from qwend.adapters.docker.container import container, network_of
from qwend.adapters.docker.containers import Containers
from qwend.adapters.docker.environment import environment
from qwend.adapters.docker.exits import ENDED, LIVING, exit_of, handle_of
from qwend.adapters.docker.identity import LOG, MARKER, OWNED, container_name
from qwend.adapters.docker.logs import LogCopy, copy, name_what_did_not_start
from qwend.adapters.docker.terminals import Terminals
from qwend.adapters.docker.users import user_of
from qwend.effects import Order, Screen, Terminal
from qwend.errors import StepFailed
from qwend.model.service import Exit, Handle

logger = logging.getLogger("qwend.docker")

_KILL_TAKES_S = 30.0
_LOG_ENDS_S = 10.0


class DockerRuntime:
    """Implements `effects.Runtime` on Docker Engine. One object per daemon; `instance` marks what is ours."""

    name = "docker"

    def __init__(
        self,
        instance: str,
        connection: Connection | None = None,
        secrets_root: Path | None = None,
        *,
        settings_env: Mapping[str, str] | None = None,
        ca: str | None = None,
    ) -> None:
        """`settings_env` is what qwend.toml says to steps with network, `ca` a PEM file that they trust
        (default: the one that this process was told to trust)."""
        self.instance = instance
        self._settings_env = dict(settings_env or {})
        trusted = ca or os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
        self._ca = trusted if trusted and os.path.isfile(trusted) else None
        self._connection = connection or Connection()
        self._containers = Containers(instance, self._connection)
        self._terminals = Terminals(self._containers)
        self._secrets = secrets_root or mounts.default_secrets_root(instance)
        self._copies: dict[str, LogCopy] = {}
        self._starting: set[str] = set()
        self._killed: set[str] = set()
        self._known: dict[str, str] = {}

    async def start(self, order: Order) -> Handle:
        """Starts the step, or adopts it if it lives. An ended container of this marker is not run again: its
        exit is still to be told. Raises StepFailed (`port-taken` where the port is not to be had)."""
        marker = order.identity.marker
        self._starting.add(marker)
        try:
            for found in await self._containers.all(marker):
                if found["State"]["Status"] != "created":
                    self._follow(found)
                    return handle_of(found)
                # Cut off between create and start: what it mounts may be gone.
                await self._containers.remove(found["Id"])
            return await self._start_new(order)
        finally:
            self._starting.discard(marker)

    async def stop(self, handle: Handle, grace_s: float) -> bool:
        """SIGTERM, the grace period, SIGKILL. The whole tree ends with the container's own process space."""
        inspected = await self._containers.inspect(handle.id)
        if inspected is None or inspected["Config"]["Labels"].get(MARKER) != handle.marker:
            return False
        if inspected["State"]["Status"] == "created":
            await self._containers.remove(handle.id)
            return False
        if inspected["State"].get("Paused"):
            await self._containers.unpause(handle.id)
        await self._containers.signal(handle.id, "SIGTERM")
        if await self._containers.ends_within(handle.id, grace_s):
            return False
        self._killed.add(handle.marker)
        await self._containers.signal(handle.id, "SIGKILL")
        if await self._containers.ends_within(handle.id, _KILL_TAKES_S):
            return True
        raise StepFailed(
            f"container {handle.id[:12]} does not end, not even by SIGKILL",
            code="cannot-kill",
            hint="a process in it waits for the kernel (a dead disk or card); `docker ps` shows it",
        )

    async def living(self) -> dict[str, Handle]:
        """Every container of this instance that lives. What an earlier daemon had created and not started is
        removed, and so are secrets that belong to nothing."""
        await self._terminals.sweep()
        found: dict[str, Handle] = {}
        markers: set[str] = set()
        for inspected in await self._containers.all():
            handle = handle_of(inspected)
            markers.add(handle.marker)
            if inspected["State"]["Status"] in LIVING:
                found[handle.marker] = handle
                self._follow(inspected)
            elif inspected["State"]["Status"] == "created" and handle.marker not in self._starting:
                await self._containers.remove(handle.id)
                mounts.drop_secrets(self._secrets, handle.marker)
        self._drop_stray_secrets(markers)
        return found

    async def backlog(self) -> list[Exit]:
        """Ended containers that nobody acknowledged yet."""
        return await self._ended(set())

    async def exits(self) -> AsyncIterator[Exit]:
        """The backlog, then each exit as it comes, until `close`. A container that a stranger removed is told
        as lost. An engine that is gone is waited for."""
        told: set[str] = set()
        async for change in self._containers.changes():
            if change.action == "oom":
                logger.warning("a process of %s was ended for memory", change.marker)
                continue
            try:
                ended = await self._ended(told)
            except Exception as error:  # the engine went away in between: the next `connected` looks again
                logger.warning("cannot look for ended containers: %s", error)
                continue
            for one in ended:
                yield one

    async def acknowledge(self, ended: Exit) -> None:
        """The exit is recorded: the container goes."""
        self._known.pop(ended.marker, None)
        self._killed.discard(ended.marker)
        for inspected in await self._containers.all(ended.marker):
            if inspected["State"]["Status"] not in LIVING:
                await self._containers.remove(inspected["Id"])
        mounts.drop_secrets(self._secrets, ended.marker)

    async def listens(self, handle: Handle, port: int) -> bool | None:
        """Whether the engine holds the host's port for this container. It takes the port when it starts the
        container and refuses the start where it cannot, so nobody else answers there."""
        inspected = await self._containers.inspect(handle.id)
        if inspected is None or inspected["State"]["Status"] not in LIVING:
            return False
        published = (inspected.get("NetworkSettings") or {}).get("Ports") or {}
        return any(
            binding.get("HostPort") == str(port)
            for bindings in published.values()
            for binding in bindings or ()
        )

    async def attach(self, order: Order, screen: Screen) -> Terminal:
        try:
            body, owned = await self._body(order)
        except Refused as error:
            raise _start_refused(error, order) from None
        name, marker = container_name(order.identity), order.identity.marker
        self._starting.add(marker)
        try:
            return await self._terminals.ready(body, name, marker, screen)
        except Refused as error:
            self._starting.discard(marker)
            await self._give_up(order, owned)
            raise _start_refused(error, order) from None

    async def detach(self, order: Order) -> None:
        await self._terminals.end(order.identity.marker)
        self._starting.discard(order.identity.marker)
        written = (order.report, order.output, order.scratch)
        await self._give_up(order, tuple(path for path in written if path is not None))

    async def close(self) -> None:
        """Lets go of the engine; containers go on."""
        for log in self._copies.values():
            log.close()
        await self._connection.close()

    async def _start_new(self, order: Order) -> Handle:
        try:
            body, owned = await self._body(order)
        except Refused as error:
            raise _start_refused(error, order) from None
        try:
            created = await self._containers.create(body, container_name(order.identity))
            await self._containers.start(created)
        except Refused as error:
            await self._give_up(order, owned)
            raise _start_refused(error, order) from None
        inspected = await self._containers.inspect(created)
        if inspected is None:
            raise StepFailed("the container was removed while it started", code="container-gone")
        self._follow(inspected)
        return handle_of(inspected)

    async def _body(self, order: Order) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What the engine is asked to create, its files laid out, and the paths that are its user's from now on."""
        engine = await self._containers.engine()
        user = await user_of(self._containers, order.image.location, engine)
        prepared = await asyncio.to_thread(mounts.prepare, order, user, self._secrets, self._ca)
        if (network := network_of(order)) is not None:
            await self._containers.ensure_network(network)
        surroundings = environment(order, self._settings_env, os.environ, self._ca is not None)
        return container(order, prepared, user, engine, surroundings), prepared.owned

    async def _give_up(self, order: Order, owned: Iterable[str]) -> None:
        await asyncio.to_thread(_take_back, owned)
        mounts.drop_secrets(self._secrets, order.identity.marker)

    async def _ended(self, told: set[str]) -> list[Exit]:
        """Exits not told yet, their logs complete and their folders back with the user."""
        found = []
        there: dict[str, str] = {}
        before = dict(self._known)  # what starts while the engine lists is not missing from the list
        for inspected in await self._containers.all():
            handle = handle_of(inspected)
            there[handle.marker] = handle.id
            status = inspected["State"]["Status"]
            if status in LIVING:
                self._follow(inspected)
                log = self._copies.get(handle.id)
                if log is not None and log.silent and await asyncio.to_thread(log.look):
                    self._follow(inspected)
            elif status in ENDED and handle.id not in told:
                await asyncio.to_thread(self._finish, inspected)
                told.add(handle.id)
                self._known.pop(handle.marker, None)
                found.append(exit_of(inspected, handle.marker in self._killed))
        told &= set(there.values())
        for marker, known in before.items():
            if there.get(marker) != known and self._known.get(marker) == known:
                del self._known[marker]
                found.append(Exit(marker=marker, lost=True))
        return found

    def _follow(self, inspected: dict[str, Any]) -> None:
        """Copies the container's output from now on, if nobody does."""
        container_id, path = inspected["Id"], inspected["Config"]["Labels"].get(LOG)
        log = self._copies.get(container_id)
        if path and inspected["State"]["Status"] in LIVING and (log is None or not log.running):
            self._copies[container_id] = LogCopy(self._connection, container_id, path)
            self._known[handle_of(inspected).marker] = container_id

    def _finish(self, inspected: dict[str, Any]) -> None:
        """Blocking: the rest of the log, and the folders back to the user."""
        log = self._copies.pop(inspected["Id"], None)
        if log is not None and not log.join(_LOG_ENDS_S):
            log.close()
            log.join(_LOG_ENDS_S)
        labels = inspected["Config"]["Labels"]
        if path := labels.get(LOG):
            try:
                copy(self._connection, inspected["Id"], path, follow=False)
                name_what_did_not_start(inspected, Path(path))
            except Exception as error:  # the exit is worth more than the end of its log
                logger.warning("the log of container %s is not complete: %s", inspected["Id"][:12], error)
        try:
            _take_back(owned for owned in labels.get(OWNED, "").split("\n") if owned)
        except OSError as error:  # so is it more than its folders: who reads them says what is wrong
            logger.warning("the folders of container %s stay its user's: %s", inspected["Id"][:12], error)

    def _drop_stray_secrets(self, markers: set[str]) -> None:
        kept = {mounts.secrets_folder(self._secrets, marker).name for marker in markers | self._starting}
        if self._secrets.is_dir():
            for folder in self._secrets.iterdir():
                if folder.name not in kept:
                    mounts.drop_secrets_folder(folder)


def _take_back(paths: Iterable[str]) -> None:
    """Blocking: gives folders back to the user."""
    for path in paths:
        if os.path.lexists(path):
            mounts.hand_over(path, os.getuid(), os.getgid())


def _start_refused(error: Refused, order: Order) -> StepFailed:
    """The engine's reason, in words that help."""
    text = error.message
    if "port is already allocated" in text or "address already in use" in text:
        return StepFailed(f"port {order.port} is taken", code="port-taken")
    if error.status == 404 and "no such image" in text.lower():
        return StepFailed(
            f"the image {order.image.key} was removed from the engine",
            code="image-gone",
            hint="`qwend up` builds it again",
        )
    if "could not select device driver" in text or "nvidia" in text.lower():
        return StepFailed(
            f"the engine cannot give a container the cards {', '.join(order.gpus)}: {text}",
            code="no-gpu",
            hint="install the NVIDIA container toolkit and restart the engine, or take --runtime native",
        )
    return StepFailed(f"Docker Engine refused to start the step: {text}", code="engine-refused")
