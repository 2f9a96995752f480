"""Rows as people and scripts see them. Their fields are stable: `qwend ps --json` prints them as they are."""

from __future__ import annotations

from typing import Any

import msgspec

from qwend.model.artifact import Artifact
from qwend.model.plan import Compiled, CompiledStep, Plan
from qwend.model.service import Step

_HEALTH = {"ready": "healthy", "unhealthy": "unhealthy", "starting": "starting"}


def url(row: Step) -> str | None:
    """Where a live service answers."""
    if row.kind != "service" or row.port is None or row.state not in {"ready", "unhealthy"}:
        return None
    host = "127.0.0.1" if row.host in {"0.0.0.0", "::", ""} else row.host
    return f"http://{f'[{host}]' if ':' in host else host}:{row.port}"


def ps_row(row: Step, artifact: Artifact | None, image: str, now: float) -> dict[str, Any]:
    """One row of `ps`."""
    return {
        "recipe": row.recipe,
        "step": row.step,
        "kind": row.kind,
        "engine": row.engine,
        "state": row.state,
        "reason": row.reason,
        "runtime": row.runtime,
        "image": image,
        "port": row.port if row.kind == "service" else None,
        "url": url(row),
        "pid": row.handle.pid if row.handle else None,
        "started": row.started,
        "health": _HEALTH.get(row.state),
        "restarts": row.attempts,
        "fingerprint": row.fingerprint,
        "generation": row.generation,
        "artifact": row.artifact,
        "size": artifact.size if artifact else None,
        "seconds": _seconds(row, now),
        "exit": msgspec.to_builtins(row.exit) if row.exit else None,
        "log": row.log,
    }


def _seconds(row: Step, now: float) -> float | None:
    """How long a job took, or a service needed until it was ready; what is under way counts until now."""
    if row.started is None or row.state == "cached":
        return None
    end = row.ready if row.kind == "service" and row.ready else row.ended
    if end is None and row.state in {"running", "starting"}:
        end = now
    return max(0.0, end - row.started) if end is not None else None


def plan_view(plan: Plan, compiled: Compiled) -> dict[str, Any]:
    """A plan with what a person wants to know of each step."""
    return {
        "plan": {**msgspec.to_builtins(plan), "changes": plan.changes},
        "compiled": {
            "recipe": compiled.recipe,
            "smoke": compiled.smoke,
            "warnings": list(compiled.warnings),
            "steps": [step_view(step) for step in compiled.steps],
        },
    }


def step_view(step: CompiledStep) -> dict[str, Any]:
    image = step.image
    return {
        "name": step.name,
        "engine": step.engine,
        "kind": step.kind,
        "runtime": step.runtime,
        "flavour": step.flavour,
        "chosen": step.chosen,
        "image": {"name": image.name, "digest": image.digest} if image is not None else None,
        "command": list(step.command),
        "facts": msgspec.to_builtins(step.facts),
        "produces": step.produces,
        "resources": msgspec.to_builtins(step.resources),
        "fingerprint": step.fingerprint,
        "inputs": [edge.step for edge in step.inputs],
        "notices": list(step.notices),
        "secrets": list(step.secrets),
        "api": step.launch.api if step.launch is not None else None,
        "port": step.policy.port,
        "options": step.options,
        "where": step.where,
        "ref": step.pin.ref if step.pin else None,
    }
