"""What keeps a plan from being acted upon, said to the client that asked."""

from __future__ import annotations

from collections.abc import Container

from qwend.control.planning import Planned
from qwend.errors import OutOfResource, QwendError, UsageError
from qwend.model.plan import Compiled, Plan


def refuse_interactive(compiled: Compiled) -> None:
    """Raises UsageError where a step wants a terminal, which `up` has not to give."""
    for step in compiled.steps:
        if step.kind == "interactive":
            raise UsageError(
                f"{step.name} talks to a terminal: nothing brings it up",
                code="interactive",
                where=step.where or None,
                hint=f"qwend run {step.name} -f FILE attaches it to yours",
            )


def require_secrets(planned: Planned, known: Container[str]) -> None:
    """Raises UsageError where a secret is not known that a step to come needs.

    A service of before waits for its secrets, but a client that could send them is told at once."""
    acting = {one.step for one in planned.plan.actions if one.verb not in {"keep", "stop"}}
    needed = [name for step in planned.compiled.steps if step.name in acting for name in step.secrets]
    if missing := [name for name in dict.fromkeys(needed) if name not in known]:
        raise UsageError(
            f"secret {', '.join(missing)} was not given",
            code="no-secret",
            hint=" ".join(f"--secret {name}=@FILE" for name in missing),
        )


def blocked(plan: Plan) -> QwendError:
    """The error of a plan with blockers."""
    first, *others = (OutOfResource(text, code="blocked") for text in plan.blockers)
    return (
        first if not others else OutOfResource("it cannot run here", code="blocked", details=(first, *others))
    )
