"""Takes what a job made into the store, with where it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from qwend.core.signals import Committed, NotCommitted
from qwend.effects import Work
from qwend.errors import QwendError, StepFailed
from qwend.model.artifact import Artifact
from qwend.model.image import ImageSpec

if TYPE_CHECKING:
    from qwend.reconciler.mailbox import Mailbox


async def commit(box: Mailbox) -> None:
    """Posts Committed or NotCommitted."""
    step = box.compiled
    work = box.enactor.work()
    try:
        artifact = await _chosen(box, work) if step.select else await _made(box, work)
        if step.policy.out is not None:
            await box.world.store.publish(artifact, step.policy.out)
    except (QwendError, msgspec.ValidationError) as error:
        if isinstance(error, QwendError):
            box.post(NotCommitted("; ".join(error.lines()), error.code))
        else:
            box.post(NotCommitted(f"the engine's report is malformed: {error}"))
    else:
        box.post(Committed(artifact.digest))


async def _made(box: Mailbox, work: Work) -> Artifact:
    """The output folder, taken into the store."""
    step = box.compiled
    metrics, facts = box.world.reports.metrics(work.report)
    return await box.world.store.commit(
        work,
        fingerprint=step.fingerprint,
        type=step.produces or "report",
        facts=msgspec.convert({**msgspec.to_builtins(step.facts), **facts}, type(step.facts), strict=False),
        metrics=metrics,
        provenance=_provenance(box),
    )


async def _chosen(box: Mailbox, work: Work) -> Artifact:
    """One of the inputs, which the step named in its report; with the figures that it told of it."""
    step = box.compiled
    name = box.world.reports.selected(work.report)
    if name is None or name not in box.producers:
        given = ", ".join(box.producers)
        raise StepFailed(f"the step chose {name or 'nothing'}, but was given {given}", code="bad-choice")
    artifact = await box.world.store.find(box.producers[name])
    if artifact is None:
        raise StepFailed(f"the artifact of {name} is not in the store any more", hint="run qwend up again")
    provenance = {**_provenance(box), "selected": name, "of": artifact.fingerprint}
    metrics, _ = box.world.reports.metrics(work.report)
    chosen = await box.world.store.alias(step.fingerprint, artifact, metrics, provenance)
    await box.world.store.discard(step.fingerprint)
    return chosen


def _provenance(box: Mailbox) -> dict[str, Any]:
    step = box.compiled
    row = box.row
    return {
        "recipe": row.recipe,
        "step": row.step,
        "run": row.run,
        "engine": step.engine,
        "plugin": step.plugin,
        "parameters": step.options,
        "ingredients": step.ingredients,
        "inputs": box.producers,
        "image": _image_record(step.image),
        "runtime": step.runtime,
        "flavour": step.flavour,
        "command": list(step.command),
        "started": row.started,
        "ended": box.world.clock.wall(),
        "peak_memory": row.exit.peak if row.exit else None,
    }


def _image_record(image: Any) -> dict[str, Any] | None:
    if image is None:
        return None
    record = {"name": image.name, "digest": image.digest}
    return {**record, "flavour": image.flavour} if isinstance(image, ImageSpec) else record
