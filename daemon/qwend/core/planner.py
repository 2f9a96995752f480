"""What is left to do: a compiled recipe against what is there. Pure, deterministic, fast.

The plan is the same for the same arguments. Steps that need nothing (an intermediate whose consumers are all
made, a source that nothing will read) get no action at all. A step is never decided by its name alone: a
rename keeps its artifact, since that is found by fingerprint.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import msgspec

from qwend.core.fingerprint import differences
from qwend.core.handover import obstacle
from qwend.core.preflight import preflight
from qwend.core.suggest import did_you_mean
from qwend.errors import UsageError
from qwend.model.host import Host
from qwend.model.image import HostProgram, Image, ImageSpec, UpstreamImage
from qwend.model.memory import human
from qwend.model.plan import Action, Compiled, CompiledStep, Plan, Verb
from qwend.model.service import HEIR, Step

_UP = frozenset({"pending", "waiting", "starting", "ready", "unhealthy", "backoff", "idle", "running"})
_SHOWN_REASONS = 3


class Snapshot(msgspec.Struct, frozen=True):
    """What is there now.

    `artifacts` holds the fingerprints whose artifact is whole, `images` the realised images as `realisation`
    names them, `rows` the recipe's steps by name, `previous` the recipe as it was last brought up, by step.
    """

    host: Host
    artifacts: Container[str] = frozenset()
    images: Container[tuple[str, str]] = frozenset()
    rows: Mapping[str, Step] = {}
    previous: Mapping[str, CompiledStep] = {}
    ports: Mapping[int, str] = {}
    """Ports that somebody else holds, of those that the recipe fixes; and who."""


def plan(compiled: Compiled, snapshot: Snapshot, force: Iterable[str] = ()) -> Plan:
    """The ordered actions: stops of what left the recipe, then steps in topological order, each image's build
    before the first step that runs in it. `force` names steps (a matrix by its bare name) to do again.

    Raises UsageError if `force` names a step that is not in the recipe.
    """
    forced = _forced(compiled, force)
    doing = _verbs(compiled, snapshot, forced)
    actions = list(_stops(compiled, snapshot))
    built: dict[tuple[str, str], Image] = {}
    acting: list[CompiledStep] = []
    for step in compiled.steps:
        verb = doing.get(step.name)
        if verb is None:
            continue
        if verb != "keep":
            acting.append(step)
            actions.extend(_build(step, verb, snapshot, built))
        detail = _detail(step, verb, compiled, snapshot.host)
        actions.append(Action(verb, step.name, _why(step, verb, snapshot, forced), detail))
    found = preflight(compiled, acting, tuple(built.values()), snapshot.host, snapshot.images)
    notices = [f"{step.name}: {text}" for step in compiled.steps for text in step.notices]
    return Plan(
        recipe=compiled.recipe,
        actions=tuple(actions),
        warnings=(*compiled.warnings, *dict.fromkeys(notices), *found.warnings),
        blockers=(*found.blockers, *_taken(acting, snapshot)),
        download=found.download,
        disk=found.disk,
    )


def _taken(acting: Iterable[CompiledStep], snapshot: Snapshot) -> Iterable[str]:
    """Fixed ports that are not to be had: said now, not when the jobs before the service are done."""
    for step in acting:
        port = step.policy.port
        if step.kind == "service" and port is not None and port in snapshot.ports:
            mend = "stop that, or leave `port:` out and a free one is leased"
            yield f"{step.name}: port {port} is {snapshot.ports[port]} ({mend})"


def realisation(runtime: str, image: Image) -> tuple[str, str]:
    """What an image becomes under a runtime: kind (`venv`, `oci`, `program`) and the key that names it."""
    match image:
        case ImageSpec():
            return ("venv" if runtime == "native" else "oci", image.key)
        case UpstreamImage():
            return ("oci", image.pinned)
        case HostProgram():
            return ("program", image.program)


def _forced(compiled: Compiled, force: Iterable[str]) -> frozenset[str]:
    names = [step.name for step in compiled.steps]
    found: set[str] = set()
    for wanted in force:
        meant = [name for name in names if name == wanted or name.startswith(f"{wanted}[")]
        if not meant:
            raise UsageError(
                f'there is no step "{wanted}" to force{did_you_mean(wanted, names)}', code="unknown-step"
            )
        found.update(meant)
    return frozenset(found)


def _verbs(compiled: Compiled, snapshot: Snapshot, forced: frozenset[str]) -> dict[str, Verb]:
    """Backwards through the graph: a step acts on its own account or because a consumer that acts lacks it."""
    wanted: set[str] = set()
    consumed: set[str] = set()
    verbs: dict[str, Verb] = {}
    for step in reversed(compiled.steps):
        verb = _verb(step, snapshot, step.name in forced, step.name in wanted, step.name in consumed)
        if verb is not None:
            verbs[step.name] = verb
        before = [*(edge.step for edge in step.inputs), *step.needs]
        consumed.update(before)
        if verb not in (None, "keep"):
            wanted.update(before)
    return verbs


def _verb(step: CompiledStep, snapshot: Snapshot, forced: bool, wanted: bool, consumed: bool) -> Verb | None:
    match step.kind:
        case "service":
            return _service(step, snapshot, forced)
        case "interactive":
            return "run"
        case "source":
            again: Verb = "reference" if step.launch is None else "run"
            idle = consumed and not wanted
        case "job":
            again = "run"
            idle = consumed and not wanted and not step.policy.keep
    if forced:
        return again
    if step.fingerprint in snapshot.artifacts:
        return "keep"
    return None if idle else again


def _service(step: CompiledStep, snapshot: Snapshot, forced: bool) -> Verb:
    row = snapshot.rows.get(step.name)
    if row is None or row.state not in _UP or row.want != "up":
        return "start"
    if forced or row.fingerprint != step.fingerprint or _moved(step, row, snapshot):
        return "replace"
    return "keep"


def _moved(step: CompiledStep, row: Step, snapshot: Snapshot) -> list[str]:
    """Why a service that is still the same thing must start again: it was told to run elsewhere or otherwise.

    A parameter that counts in no fingerprint (threads) rebuilds nothing, but who changes it for a service
    means the running one. Only what the recipe changed counts, not what a new version of the plugin adds.
    """
    found = []
    if row.runtime and row.runtime != step.runtime:
        found.append(f"runtime {row.runtime} → {step.runtime}")
    before = snapshot.previous.get(step.name)
    if before is None or before.fingerprint != step.fingerprint:
        return found
    for name, value in step.options.items():
        if name in before.options and before.options[name] != value:
            found.append(f"with.{name} {before.options[name]} → {value}")
    for name in ("gpus", "gpu_share", "memory"):
        old, new = getattr(before.policy, name), getattr(step.policy, name)
        if old != new:
            found.append(f"{name} changed")
    if before.resources.cpus != step.resources.cpus:
        found.append("cpus changed")
    return found


def _stops(compiled: Compiled, snapshot: Snapshot) -> Iterable[Action]:
    there = {step.name for step in compiled.steps} | set(compiled.left_out)
    for name in sorted(snapshot.rows):
        row = snapshot.rows[name]
        gone = (
            not name.endswith(HEIR) and name not in there and name.partition("[")[0] not in compiled.left_out
        )
        if gone and row.state in _UP and row.want == "up":
            yield Action("stop", name, "no longer in the recipe")


def _build(
    step: CompiledStep, verb: Verb, snapshot: Snapshot, built: dict[tuple[str, str], Image]
) -> Iterable[Action]:
    if step.image is None or verb == "reference":
        return
    key = realisation(step.runtime, step.image)
    if key in built or key in snapshot.images or isinstance(step.image, HostProgram):
        return
    built[key] = step.image
    if isinstance(step.image, ImageSpec):
        size = f"about {human(step.image.disk_mb * 1024 * 1024)}" if step.image.disk_mb else ""
        slow = "compiles, which takes minutes" if step.image.compiles else ""
        yield Action("build", key[1], "not built yet", ", ".join(filter(None, (slow, size))))
    else:
        yield Action("build", step.image.name, "not pulled yet")


def _why(step: CompiledStep, verb: Verb, snapshot: Snapshot, forced: frozenset[str]) -> str:
    row = snapshot.rows.get(step.name)
    if verb == "keep":
        return (row.state if row else "running") if step.kind == "service" else "done"
    if step.name in forced:
        return "forced"
    if step.kind == "interactive":
        return "runs in your terminal"
    before = snapshot.previous.get(step.name)
    if verb == "replace" and row is not None:
        moved = [] if row.fingerprint != step.fingerprint else _moved(step, row, snapshot)
        changed = moved or (differences(before, step) if before is not None else [])
        return _join(changed) or "changed since it was started"
    if verb == "start":
        return _not_running(row)
    if row is not None and row.fingerprint == step.fingerprint and row.state in _UP:
        return "already under way"
    if before is not None and before.fingerprint != step.fingerprint:
        return _join(differences(before, step)) or "changed"
    return _not_made(step, row)


def _not_running(row: Step | None) -> str:
    if row is None:
        return "not running"
    if row.state == "failed":
        return f"failed before: {row.reason}" if row.reason else "failed before"
    return row.state if row.state in {"stopped", "stopping"} else "not running"


def _not_made(step: CompiledStep, row: Step | None) -> str:
    if step.kind == "source":
        return "not referenced yet" if step.launch is None else "not fetched yet"
    if row is None or row.fingerprint != step.fingerprint:
        return "not made yet"
    match row.state:
        case "failed":
            return f"failed before: {row.reason}" if row.reason else "failed before"
        case "cancelled":
            return "was cut off"
        case "succeeded" | "cached":
            return "its artifact is no longer in the store"
        case _:
            return "not made yet"


def _join(reasons: list[str]) -> str:
    more = len(reasons) - _SHOWN_REASONS
    return "; ".join(reasons[:_SHOWN_REASONS]) + (f"; {more} more" if more > 0 else "")


def _detail(step: CompiledStep, verb: Verb, compiled: Compiled, host: Host) -> str:
    if verb == "replace" and step.policy.replace == "rolling":
        hindrance = obstacle(step, compiled.steps, host)
        return (
            f"stop-first: {hindrance}" if hindrance else "rolling: the old one ends when the new one is ready"
        )
    if verb in ("start", "replace"):
        return f"port {step.policy.port}" if step.policy.port else "on a free port"
    if step.kind == "source" and verb == "run" and step.pin is not None:
        sizes = [file.size for file in step.pin.files if file.local is None]
        known = [size for size in sizes if size is not None]
        return human(sum(known)) if known and len(known) == len(sizes) else ""
    return ""
