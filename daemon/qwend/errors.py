"""Every failure that a user can meet: what went wrong, where, and how to mend it.

An error crosses three borders (worker to daemon, daemon to client, client to terminal), so it is plain
data: `to_dict` and `from_dict` are inverse. The exit codes are those of the command line reference.
"""

from __future__ import annotations

from typing import Any, ClassVar


class QwendError(Exception):
    """A failure with an exit code; `str()` of it is one line without a trailing full stop.

    `code` is stable and machine-readable (`port-taken`), `where` is `file:line:column` or None, `hint`
    says how to mend it, `details` are further errors of the same kind (a recipe reports all of its errors).
    """

    exit_code: ClassVar[int] = 1
    default_code: ClassVar[str] = "failed"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        where: str | None = None,
        details: tuple[QwendError, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint
        self.where = where
        self.details = details

    def lines(self) -> list[str]:
        """The error as a user reads it, one entry a line."""
        if self.details:
            return [line for detail in self.details for line in detail.lines()]
        text = f"{self.where}: {self.message}" if self.where else self.message
        return [f"{text} ({self.hint})" if self.hint else text]

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": type(self).__name__,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "where": self.where,
            "details": [detail.to_dict() for detail in self.details],
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> QwendError:
        """The error that `to_dict` described; an unknown kind (a newer peer) becomes a plain QwendError."""
        kind = _KINDS.get(data.get("kind", ""), QwendError)
        return kind(
            data.get("message", "unknown error"),
            code=data.get("code"),
            hint=data.get("hint"),
            where=data.get("where"),
            details=tuple(QwendError.from_dict(item) for item in data.get("details", ())),
        )


class StepFailed(QwendError):
    """A step ran and failed."""

    exit_code = 1
    default_code = "step-failed"


class UsageError(QwendError):
    """Bad usage or a bad recipe: nothing was started."""

    exit_code = 2
    default_code = "usage"


class Unreachable(QwendError):
    """The daemon, a runtime or a hub does not answer."""

    exit_code = 3
    default_code = "unreachable"


class GateRefused(QwendError):
    """An `expect:` does not hold."""

    exit_code = 4
    default_code = "gate-refused"


class OutOfResource(QwendError):
    """No port, memory, disk or accelerator left for a step."""

    exit_code = 5
    default_code = "out-of-resource"


class Interrupted(QwendError):
    """The user ended it."""

    exit_code = 130
    default_code = "interrupted"


_KINDS: dict[str, type[QwendError]] = {
    kind.__name__: kind
    for kind in (QwendError, StepFailed, UsageError, Unreachable, GateRefused, OutOfResource, Interrupted)
}
