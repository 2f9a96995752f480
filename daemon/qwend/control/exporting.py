"""A plan for those who run it without qwend: as a shell script, or its services as a file for Docker Compose."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from itertools import count

from qwend.api.control import ExportRequest, Json
from qwend.control.planning import Planned
from qwend.control.running import Running
from qwend.core.compose_file import compose_file
from qwend.core.exported import Made, Part, Place
from qwend.core.script import script
from qwend.model.artifact import Artifact
from qwend.model.plan import CompiledStep
from qwend.reconciler.places import threads
from qwend.reconciler.reconciler import Reconciler
from qwend.setting_values import PORT_RANGE


async def export(running: Running, reconciler: Reconciler, request: ExportRequest) -> AsyncIterator[Json]:
    """Progress of the planning, then `{"end": {"text"}}`, or `{"end": {"document", "files", "missing"}}`: what lies
    beside the document by path, and the names of the images to build."""
    planned: Planned | None = None
    async for item in running.planned(request):
        if isinstance(item, dict):
            yield item
        else:
            planned = item
    if planned is None:
        return
    compiled = planned.compiled
    leased = {row["port"] for row in reconciler.world.state.rows("lease").values()}
    spare = (port for port in count(PORT_RANGE[0]) if port not in leased)
    parts = [await _part(reconciler, compiled.recipe, step, spare) for step in compiled.steps]
    end: Json = {"exit_code": 0, "missing": []}
    if request.form == "compose":
        end["document"], end["files"] = compose_file(compiled.recipe, parts)
        served = (part for part in parts if part.step.kind == "service" and part.image is None)
        end["missing"] = sorted({part.step.image.name for part in served if part.step.image is not None})
    else:
        acting = [action.step for action in planned.plan.actions if action.verb not in ("keep", "stop")]
        end["text"] = script(compiled.recipe, parts, acting)
    yield {"end": end}


async def _part(reconciler: Reconciler, recipe: str, step: CompiledStep, spare: Iterator[int]) -> Part:
    world = reconciler.world
    artifact = await world.store.find(step.fingerprint) if step.kind != "service" else None
    builder = world.builders.get(step.runtime)
    found = await builder.find(step.image) if builder is not None and step.image is not None else None
    port = None
    if step.kind == "service":
        lease = world.state.rows("lease").get(f"{recipe}/{step.name}")
        port = step.policy.port or (lease["port"] if lease else next(spare))
    return Part(
        step,
        _made(artifact) if artifact is not None else None,
        Place(found.kind, found.location) if found is not None else None,
        port,
        threads(step.resources.cpus, world.host.cpus),
    )


def _made(artifact: Artifact) -> Made:
    """An artifact's folder and files; one that refers to a single file of the user's is the folder around it."""
    folder = os.path.realpath(artifact.location)
    if os.path.isfile(folder):
        folder = os.path.dirname(folder)
    return Made(
        folder, {file.path: os.path.realpath(os.path.join(folder, file.path)) for file in artifact.files}
    )
