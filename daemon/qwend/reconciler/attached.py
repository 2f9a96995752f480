"""Interactive steps: leased and laid out like any other, and then run by the client on its own terminal.

No row, no mailbox, no restart: such a step is there as long as its client's connection is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from qwend.core.signals import Blocked, Granted, Refused, Signal
from qwend.effects import Order, Progress, Screen, Terminal
from qwend.errors import OutOfResource, QwendError, StepFailed, Unreachable
from qwend.model.plan import CompiledStep
from qwend.model.service import Identity
from qwend.reconciler.desk import Needs
from qwend.reconciler.places import folder, threads
from qwend.reconciler.world import World


class Attached:
    """One interactive step of one client. `producers` maps its inputs to the fingerprints of what makes them; `run`
    is a name that no other start of it has."""

    def __init__(
        self, world: World, recipe: str, step: CompiledStep, producers: Mapping[str, str], run: str
    ) -> None:
        self._world = world
        self._step = step
        self._producers = producers
        self._identity = Identity(world.instance, run, recipe, step.name, step.fingerprint, 1)
        self._holder = f"{recipe}/{step.name}@{run}"
        self._root = Path(world.home) / "run" / recipe / f"{folder(step.name)}@{run}"
        self._order: Order | None = None

    async def ready(self, screen: Screen) -> Terminal:
        """Waits for what it needs of the machine; what the client is to run. Raises OutOfResource, StepFailed."""
        runtime = self._world.runtimes.get(self._step.runtime)
        if runtime is None:
            raise Unreachable(
                f"the runtime {self._step.runtime} does not answer", hint="qwend doctor says why"
            )
        granted = await self._leased()
        self._order = await self._ordered(granted.gpus)
        return await runtime.attach(self._order, screen)

    async def gone(self) -> None:
        """The client is gone, or never came: gives everything back. May be called at any point."""
        await self._world.desk.give_back(self._holder, False)
        runtime = self._world.runtimes.get(self._step.runtime)
        if self._order is not None and runtime is not None:
            await runtime.detach(self._order)
        await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)
        # Here and not beside the loop: another step may be about to make its folder in the recipe's.
        with contextlib.suppress(OSError):
            self._root.parent.rmdir()

    async def _leased(self) -> Granted:
        answer: asyncio.Future[Granted] = asyncio.get_running_loop().create_future()
        key = f"{self._identity.recipe}/{self._step.name}"

        def post(signal: Signal) -> None:
            if answer.done():
                return
            match signal:
                case Granted():
                    answer.set_result(signal)
                case Refused(reason=reason, code=code):
                    answer.set_exception(OutOfResource(f"{self._step.name}: {reason}", code=code or None))
                case Blocked(reason=reason):
                    self._world.hub.tell(Progress(key, "waiting", message=reason))

        self._world.desk.ask(self._holder, Needs.of(self._holder, self._step), post)
        return await answer

    async def _ordered(self, gpus: tuple[str, ...]) -> Order:
        step, world = self._step, self._world
        if step.launch is None or step.image is None:
            raise StepFailed(f"{step.engine} has nothing to run", code="no-launch")
        image = await world.builders[step.runtime].find(step.image)
        if image is None:
            raise StepFailed(
                f"image {step.image.name} is not there any more", hint="run the same command again"
            )
        inputs = {}
        for name, fingerprint in self._producers.items():
            artifact = await world.store.find(fingerprint)
            if artifact is None:
                raise StepFailed(f"the artifact of {name} is not in the store any more", hint="run it again")
            inputs[name] = artifact.location
        scratch = self._root / "scratch"
        try:
            os.makedirs(scratch, mode=0o700)
        except OSError as error:
            raise QwendError(f"{scratch} cannot be made: {error.strerror}", code="unwritable") from None
        return Order(
            identity=self._identity,
            launch=step.launch,
            image=image,
            inputs=inputs,
            log=str(self._root / "log"),
            report=str(self._root / "report.jsonl"),
            work=str(self._root),
            scratch=str(scratch),
            secrets={
                name: world.secrets[name]
                for name in (*step.secrets, *step.launch.optional_secrets)
                if name in world.secrets
            },
            gpus=gpus,
            memory=step.policy.memory,
            threads=threads(step.resources.cpus, world.host.cpus),
            env=dict(step.image.env),
        )
