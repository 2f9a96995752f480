"""Gives out leases: one queue for cards, memory, CPUs and heavy turns (`core.leasing` decides), and ports.

What is held lives in memory; after a crash it is taken from the rows of what still lives (`hold`). Ports are
kept by the state room, since a service keeps its port over restarts of everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from qwend.core.leasing import decide
from qwend.core.room import Card
from qwend.core.signals import Blocked, Granted, Refused, Signal
from qwend.core.wants import Want
from qwend.errors import QwendError
from qwend.model.lease import Lease
from qwend.model.plan import CompiledStep
from qwend.model.service import Step

if TYPE_CHECKING:
    from qwend.reconciler.world import World

log = logging.getLogger(__name__)

_AGAIN_S = 5.0
"""Memory and cards of other programs come free without anybody telling us."""


class Needs(msgspec.Struct, frozen=True):
    """All that one step asks for. `port` is the wanted one, or None for any; `avoid` are ports that failed;
    without its `secrets` a step waits, and holds nothing meanwhile."""

    want: Want
    service: bool
    port: int | None = None
    avoid: tuple[int, ...] = ()
    secrets: tuple[str, ...] = ()

    @staticmethod
    def of(key: str, step: CompiledStep, avoid: tuple[int, ...] = ()) -> Needs:
        return Needs(Want.of(key, step), step.kind == "service", step.policy.port, avoid, step.secrets)


class Desk:
    """Every waiting step is asked about whenever something is given back, and every few seconds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queue: dict[str, tuple[Needs, Callable[[Signal], object]]] = {}
        self._held: dict[str, tuple[Lease, ...]] = {}
        self._services: set[str] = set()
        self._told: dict[str, str] = {}
        self._owed: dict[str, bool] = {}
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="desk")

    def ask(self, key: str, needs: Needs, post: Callable[[Signal], object]) -> None:
        """Queues a step; Granted, Blocked or Refused is posted, Blocked again whenever its reason changes."""
        self._queue[key] = (needs, post)
        self._told.pop(key, None)
        self._wake.set()

    def hold(self, key: str, needs: Needs, row: Step) -> None:
        """What lives holds its leases, whoever started it."""
        want = needs.want
        parts = {
            gpu.uuid: Card(gpu, 1.0, gpu.memory).part(want.share, want.gpu_memory)
            for gpu in self._world.host.gpus
        }
        leases = [Lease("gpu", uuid, key, parts.get(uuid, want.share)) for uuid in row.gpus]
        if want.memory is not None:
            leases.append(Lease("memory", "memory", key, float(want.memory)))
        if want.cpus is not None:
            leases.append(Lease("cpus", "cpus", key, want.cpus))
        if want.heavy:
            leases.append(Lease("heavy", "heavy", key))
        self._keep(key, needs, tuple(leases))

    async def give_back(self, key: str, port: bool) -> None:
        """Takes a step out of the queue and its leases back; the sticky port only if asked.

        A port that a full disk keeps from being given back is given back when there is room.
        """
        self._queue.pop(key, None)
        self._held.pop(key, None)
        self._services.discard(key)
        self._owed.pop(key, None)
        try:
            await self._world.state.release(key, sticky=port)
        except QwendError as error:
            log.warning("%s: its port is given back later: %s", key, error)
            self._owed[key] = port
        self._wake.set()

    def exchange(self, one: str, other: str) -> None:
        """Each of two services holds what the other held."""
        held = {key: self._held.pop(key, ()) for key in (one, other)}
        for key, leases in ((one, held[other]), (other, held[one])):
            self._held[key] = tuple(msgspec.structs.replace(lease, holder=key) for lease in leases)
        self._services |= {one, other}

    def wake(self) -> None:
        """Something may be there that was lacking."""
        self._wake.set()

    def held(self) -> list[Lease]:
        return [lease for leases in self._held.values() for lease in leases]

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _keep(self, key: str, needs: Needs, leases: tuple[Lease, ...]) -> None:
        self._held[key] = leases
        if needs.service:
            self._services.add(key)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _AGAIN_S if self._queue or self._owed else None)
            self._wake.clear()
            try:
                await self._pay()
                await self._serve()
            except Exception:
                log.exception("leases could not be decided")

    async def _pay(self) -> None:
        for key, port in list(self._owed.items()):
            if self._owed.get(key) == port:
                with contextlib.suppress(QwendError):
                    await self._world.state.release(key, sticky=port)
                    self._owed.pop(key, None)

    async def _serve(self) -> None:
        if not self._queue:
            return
        host = await self._world.machine.observe()
        wants = []
        for key, (needs, _) in self._queue.items():
            missing = [name for name in needs.secrets if name not in self._world.secrets]
            if missing:
                self._tell(key, f"waiting for secret {', '.join(missing)}: run qwend up again with it set")
            else:
                wants.append(needs.want)
        decision = decide(wants, self.held(), host, lasting=self._services)
        # What was given up while the machine was looked at is no longer in the queue.
        for key, reason in decision.refused.items():
            if key in self._queue:
                self._queue.pop(key)[1](Refused(reason))
        for key, reason in decision.reasons.items():
            self._tell(key, reason)
        ports = []
        for grant in decision.grants:
            if grant.holder in self._queue:
                needs, post = self._queue.pop(grant.holder)
                self._keep(grant.holder, needs, grant.leases)
                ports.append(self._with_port(grant.holder, needs, grant.gpus, post))
        await asyncio.gather(*ports)  # ports that are taken together are committed together

    def _tell(self, key: str, reason: str) -> None:
        if self._told.get(key) != reason:
            self._told[key] = reason
            self._queue[key][1](Blocked(reason))

    async def _with_port(
        self, key: str, needs: Needs, gpus: tuple[str, ...], post: Callable[[Signal], object]
    ) -> None:
        if not needs.service:
            post(Granted(gpus=gpus))
            return
        try:
            lease = await self._world.state.lease_port(key, needs.port, needs.avoid)
        except QwendError as error:
            self._held.pop(key, None)
            self._services.discard(key)
            reason = "; ".join(error.lines())
            if error.code == "disk-full":  # it is tried again, as everything that waits is
                self._queue.setdefault(key, (needs, post))
                self._tell(key, f"waiting for room: {reason}")
            else:
                post(Refused(reason, error.code))
        else:
            self._owed.pop(key, None)
            post(Granted(port=int(lease.name), gpus=gpus))
