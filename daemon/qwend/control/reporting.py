"""What `qwend report` tells of a recipe: its steps, what they made, figures, curves, gates, the machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qwend import __version__
from qwend.api.control import Json
from qwend.control.views import step_view
from qwend.core.gate import evaluate, figures, parse
from qwend.errors import UsageError
from qwend.model.artifact import Artifact
from qwend.model.plan import Compiled, CompiledStep
from qwend.reconciler.reconciler import Reconciler

_MOST = 8 << 20
"""Bytes of a file of an artifact that a report reads."""
_POINTS = 2000
_CURVES = ("loss", "eval_loss", "learning_rate", "grad_norm", "reward")
_PROVENANCE = ("started", "ended", "peak_memory", "plugin", "selected", "identity", "run")


async def describe(reconciler: Reconciler, recipe: str, rows: Iterable[Json]) -> Json:
    """Everything of a recipe, as plain data; `rows` are those of `ps`. Raises UsageError for one that is not known."""
    compiled = reconciler.compiled(recipe)
    if compiled is None:
        raise UsageError(f"there is no recipe {recipe}", code="no-such-recipe", hint="qwend ls lists them")
    world = reconciler.world
    made = {
        step.name: await world.store.find(step.fingerprint)
        for step in compiled.steps
        if step.kind != "service"
    }
    states = {row["step"]: row for row in rows}
    host = await world.machine.observe()
    files = await asyncio.to_thread(_files, made)
    return {
        "recipe": recipe,
        "source": compiled.source,
        "directory": compiled.directory,
        "smoke": compiled.smoke,
        "made": world.clock.wall(),
        "version": __version__,
        "host": msgspec.to_builtins(host),
        "steps": [
            _step(step, states.get(step.name), made.get(step.name), files.get(step.name, {}), compiled, made)
            for step in compiled.steps
        ],
    }


def _step(
    step: CompiledStep,
    row: Json | None,
    artifact: Artifact | None,
    files: Json,
    compiled: Compiled,
    made: Mapping[str, Artifact | None],
) -> Json:
    kept = (
        "name",
        "engine",
        "kind",
        "runtime",
        "flavour",
        "image",
        "command",
        "produces",
        "fingerprint",
        "options",
        "ref",
    )
    view = step_view(step)
    return {
        **{key: view[key] for key in kept},
        "inputs": _direct(step),
        "needs": list(step.needs),
        "state": row["state"] if row else None,
        "reason": row["reason"] if row else "",
        "seconds": row["seconds"] if row else None,
        "url": row["url"] if row else None,
        "artifact": _artifact(artifact),
        "gates": _gates(step, artifact, compiled, made),
        **files,
    }


def _direct(step: CompiledStep) -> list[str]:
    """What the step itself names; a Launch may read what lies behind it, too."""
    named = {str(word).partition("[")[0] for value in step.options.values() for word in _words(value)}
    return [
        edge.step
        for edge in step.inputs
        if f"from.{edge.name}" in step.ingredients or edge.name.partition("[")[0] in named
    ]


def _words(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _artifact(artifact: Artifact | None) -> Json | None:
    if artifact is None:
        return None
    return {
        "digest": artifact.digest,
        "type": artifact.type,
        "size": artifact.size,
        "created": artifact.created,
        "facts": msgspec.to_builtins(artifact.facts),
        "metrics": artifact.metrics,
        "provenance": {key: artifact.provenance[key] for key in _PROVENANCE if key in artifact.provenance},
    }


def _gates(
    step: CompiledStep, artifact: Artifact | None, compiled: Compiled, made: Mapping[str, Artifact | None]
) -> list[Json]:
    """Each gate with its figures; nothing is told of a step that was not made."""
    if artifact is None or not step.policy.expect:
        return []
    found = ((other.name, made.get(other.name)) for other in compiled.steps)
    others = ((name, other.metrics) for name, other in found if other is not None)
    metrics = figures(step.name, artifact.metrics, others)
    verdicts = [(text, evaluate(parse(text), metrics)) for text in step.policy.expect]
    return [{"gate": text, "holds": verdict.holds, "figures": verdict.figures} for text, verdict in verdicts]


def _files(made: Mapping[str, Artifact | None]) -> dict[str, Json]:
    """The tables and curves that artifacts hold."""
    found: dict[str, Json] = {}
    for name, artifact in made.items():
        if artifact is None or not artifact.location:
            continue
        paths = {file.path for file in artifact.files}
        if artifact.type == "report" and "report.json" in paths:
            table = _read(Path(artifact.location) / "report.json")
            if isinstance(table, dict) and isinstance(table.get("models"), list):
                found.setdefault(name, {})["table"] = table
        if "trainer_state.json" in paths:
            state = _read(Path(artifact.location) / "trainer_state.json")
            history = state.get("log_history") if isinstance(state, dict) else None
            found.setdefault(name, {})["curves"] = _curves(history if isinstance(history, list) else [])
    return found


def _read(path: Path) -> Any:
    """The JSON of a file that belongs to an artifact; None if it is none, or too large to be one."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
        return json.loads(data) if len(data) <= _MOST else None
    except (OSError, ValueError, RecursionError):
        return None


def _curves(history: list[Any]) -> dict[str, list[list[float]]]:
    """Points (step, value) by figure, thinned where there are very many."""
    curves: dict[str, list[list[float]]] = {}
    for row in history:
        step = row.get("step") if isinstance(row, dict) else None
        if not isinstance(step, int | float):
            continue
        for name in _CURVES:
            if isinstance(value := row.get(name), int | float) and value == value:
                curves.setdefault(name, []).append([float(step), float(value)])
    return {name: _thinned(points) for name, points in curves.items()}


def _thinned(points: list[list[float]]) -> list[list[float]]:
    every = -(-len(points) // _POINTS)
    return points if every <= 1 else [*points[:-1:every], points[-1]]
