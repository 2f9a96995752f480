"""From a recipe's text to a plan: load, resolve, observe, compile, plan.

Resolving is the only part that may reach the network, and it does so in a child process. What a lock beside
the recipe pins is taken from there, so that a locked recipe plans offline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from qwend.api.control import RecipeRequest
from qwend.control.fixed_ports import held_ports
from qwend.control.lockfile import LockFile, images_of, require_known
from qwend.control.pinning import Asker, Pinning, Tell, raise_all
from qwend.core.planner import Snapshot, plan
from qwend.core.recipe_text import RecipeFile
from qwend.errors import QwendError
from qwend.model.artifact import Pin
from qwend.model.host import Host
from qwend.model.image import HostProgram
from qwend.model.plan import Compiled, Plan
from qwend.reconciler.reconciler import Reconciler
from qwend.worker.wire import LoadReply, LoadRequest
from qwend.worker.wire import RecipeRequest as PlainRequest

log = logging.getLogger(__name__)


class Worker(Protocol):
    """The planner worker, as far as planning needs it."""

    async def load(self, request: LoadRequest) -> LoadReply: ...

    async def compile(
        self, request: LoadRequest, pins: Mapping[str, Pin], have: Compiled | None = None
    ) -> Compiled: ...


class Images(Protocol):
    """Which images are realised."""

    async def keys(self) -> set[tuple[str, str]]:
        """Kind and key of each, as `core.planner.realisation` names them."""
        ...


class Planned(msgspec.Struct, frozen=True):
    """A plan with all that acting on it needs."""

    compiled: Compiled
    plan: Plan
    lock: LockFile
    host: Host
    ports: dict[int, str] = {}
    """Ports that the recipe fixes and others hold, and who."""


class Planning:
    """Plans recipes, one at a time for each caller; several callers may plan at once."""

    def __init__(
        self,
        worker: Worker,
        asker: Asker,
        images: Images,
        reconciler: Reconciler,
        *,
        runtime: str | None,
        runtimes: Callable[[Host], tuple[Host, tuple[str, ...]]],
        taken: Callable[[int], str | None] = lambda _: None,
    ) -> None:
        """`runtimes` tells which answer on a host as it was observed, and the host with what they lack; `taken` by
        whom a port of this machine is taken (it may block)."""
        self._worker = worker
        self._pinning = Pinning(asker, reconciler)
        self._images = images
        self._reconciler = reconciler
        self._runtime = runtime
        self._runtimes = runtimes
        self._taken = taken

    async def plan(self, request: RecipeRequest, tell: Tell) -> Planned:
        """What an `up` would do. Raises UsageError for what is wrong with the recipe, all of it at once."""
        world = self._reconciler.world
        if request.host is not None:
            # Another machine: what lies and runs here is taken as it is, but not what this one could give.
            host = request.host
            answering: tuple[str, ...] = ("native", "docker") if host.docker else ("native",)
        else:
            host, answering = self._runtimes(await world.machine.observe())
        load = LoadRequest(_plain(request), host, answering, self._runtime)
        loaded = await self._worker.load(load)
        for warning in loaded.warnings:
            log.info("%s: %s", loaded.recipe, warning)
        lock = LockFile.read(request, request.smoke)
        require_known(request, [source.name for source in loaded.sources])
        pins = await self._pinning.pins(loaded.sources, lock, request, tell)
        compiled = await self._worker.compile(load, pins, self._reconciler.compiled(loaded.recipe))
        lock.see(images_of(compiled))
        if request.locked:
            lock.require_images()
        await self._require_places(compiled)
        leases = world.state.rows("lease")
        ports = {} if request.host else await held_ports(compiled, leases, self._taken)
        return Planned(compiled, await self.again(compiled, request.force, host, ports), lock, host, ports)

    async def _require_places(self, compiled: Compiled) -> None:
        """Nobody trains for hours to be told that the place of the result is taken."""
        problems: list[QwendError] = []
        for step in compiled.steps:
            if step.policy.out is not None:
                try:
                    await self._reconciler.world.store.publishable(step.policy.out)
                except QwendError as error:
                    problems.append(
                        type(error)(
                            f"steps.{step.name}.out: {error.message}",
                            code=error.code,
                            hint=error.hint,
                            where=step.where or None,
                        )
                    )
        raise_all(problems, "the places of several results are taken")

    async def again(
        self,
        compiled: Compiled,
        force: Sequence[str],
        host: Host | None = None,
        ports: Mapping[int, str] | None = None,
    ) -> Plan:
        """What is left to do of a compiled recipe; `ports` are those that others hold."""
        world = self._reconciler.world
        old = self._reconciler.compiled(compiled.recipe)
        snapshot = Snapshot(
            host=host or await world.machine.observe(),
            artifacts=await self._whole(compiled),
            images=await self._realised(compiled),
            rows={row.step: row for row in self._reconciler.rows(compiled.recipe)},
            previous={step.name: step for step in old.steps} if old else {},
            ports=ports or {},
        )
        return plan(compiled, snapshot, force)

    async def _realised(self, compiled: Compiled) -> set[tuple[str, str]]:
        """Realised images, and those programs of the host that the recipe names and that are there."""
        found = await self._images.keys()
        programs = {
            step.image.program: step for step in compiled.steps if isinstance(step.image, HostProgram)
        }
        for program, step in programs.items():
            builder = self._reconciler.world.builders.get(step.runtime)
            if builder is not None and step.image is not None and await builder.find(step.image) is not None:
                found.add(("program", program))
        return found

    async def _whole(self, compiled: Compiled) -> frozenset[str]:
        store = self._reconciler.world.store
        made = {step.fingerprint for step in compiled.steps if step.kind in {"source", "job"}}
        return frozenset([one for one in made if await store.find(one) is not None])


def _plain(request: RecipeRequest) -> PlainRequest:
    return PlainRequest(
        files=tuple(RecipeFile(file.path, file.text) for file in request.files),
        directory=request.directory,
        set=request.set,
        env=request.env,
        profiles=request.profiles,
        smoke=request.smoke,
        runtime=request.runtime,
        device=request.device,
        steps=request.steps,
    )
