"""Where a step's things are, and what a runtime needs to start it."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from qwend.effects import Order, Work
from qwend.errors import StepFailed
from qwend.model.launch import PREVIOUS, Launch, reads_previous
from qwend.model.service import HEIR, Identity, Step

if TYPE_CHECKING:
    from qwend.reconciler.mailbox import Mailbox


class Places:
    """The files and folders of one mailbox's step."""

    def __init__(self, box: Mailbox) -> None:
        self._box = box

    async def order(self) -> Order:
        box, world, step = self._box, self._box.world, self._box.compiled
        launch = self.launch()
        if step.image is None:
            raise StepFailed(f"{step.engine} names no image", code="no-image")
        image = await world.builders[step.runtime].find(step.image)
        if image is None:
            raise StepFailed(
                f"image {step.image.name} is not there any more", hint="run the same command again"
            )
        inputs: dict[str, str] = {}
        for name, fingerprint in box.producers.items():
            artifact = await world.store.find(fingerprint)
            if artifact is None:
                raise StepFailed(
                    f"the artifact of {name} is not in the store any more", hint="run qwend up again"
                )
            inputs[name] = artifact.location
        work = await self._prepare(launch)
        inputs |= await self._previous(launch, work)
        row = box.row
        return Order(
            identity=self.identity(row),
            launch=launch,
            image=image,
            inputs=inputs,
            log=str(self.log_path()),
            report=work.report,
            work=work.root,
            output=work.output if row.kind == "job" else None,
            scratch=work.scratch,
            port=row.port,
            host=step.policy.host,
            secrets={
                name: world.secrets[name]
                for name in (*step.secrets, *launch.optional_secrets)
                if name in world.secrets
            },
            gpus=row.gpus,
            memory=step.policy.memory,
            threads=threads(step.resources.cpus, world.host.cpus),
            env=dict(step.image.env),
            stop_grace_s=step.policy.stop_grace_s,
            service=row.kind == "service",
        )

    async def _previous(self, launch: Launch, work: Work) -> dict[str, str]:
        """What the step made before, where its Launch reads it; an empty folder if there is nothing."""
        if not reads_previous(launch):
            return {}
        row = self._box.row
        made = await self._box.world.store.latest(row.recipe, row.step, self._box.compiled.engine)
        if made is not None:
            return {PREVIOUS: made.location}
        nothing = os.path.join(work.root, "nothing")
        os.makedirs(nothing, mode=0o700, exist_ok=True)
        return {PREVIOUS: nothing}

    async def _prepare(self, launch: Launch) -> Work:
        if self._box.row.kind == "job":
            return await self._box.world.store.prepare(self._box.compiled.fingerprint, launch.resumable)
        work = self.work()
        _clear(work.root, {os.path.basename(work.scratch)} if launch.resumable else set())
        for made in (work.output, work.scratch):
            os.makedirs(made, mode=0o700, exist_ok=True)
        return work

    def identity(self, row: Step) -> Identity:
        return Identity(
            self._box.world.instance, row.run, row.recipe, row.step, row.fingerprint, row.generation
        )

    def log_path(self) -> Path:
        row = self._box.row
        name = folder(row.step.removesuffix(HEIR))
        return Path(self._box.world.home) / "logs" / row.recipe / f"{name}.log"

    def work(self) -> Work:
        """The step's folders: those of its artifact-to-be, or a service's own."""
        row = self._box.row
        if row.kind == "job":
            return self._box.world.store.work(row.fingerprint)
        root = Path(self._box.world.home) / "run" / row.recipe / folder(row.born or row.step)
        return Work(str(root), *(str(root / name) for name in ("out", "scratch", "report.jsonl")))

    def launch(self) -> Launch:
        launch = self._box.compiled.launch
        if launch is None:
            raise StepFailed(f"{self._box.compiled.engine} has nothing to run", code="no-launch")
        return launch


def _clear(root: str, kept: set[str]) -> None:
    """Empties a folder, if it is there, but for the names that are kept."""
    for name in set(os.listdir(root) if os.path.isdir(root) else ()) - kept:
        path = os.path.join(root, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def folder(step: str) -> str:
    """A step's name as a file name: `quant[Q8_0]` becomes `quant-Q8_0`."""
    return "".join(char if char.isalnum() or char in "_.-" else "-" for char in step).strip("-.") or "step"


def threads(wanted: float | None, cpus: int) -> int:
    """What a step may use of the machine's CPUs."""
    return max(1, int(wanted)) if wanted else max(1, cpus)
