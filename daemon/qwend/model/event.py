"""Events: the truth. Tables are their projection."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Table = Literal["step", "run", "recipe", "lease"]


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change, written before its effect.

    `kind` says what happened (`service.ready`, `job.failed`, `lease.taken`); `subject` is what it happened to
    (`huanhuan/chat`, a run id, a fingerprint). If `table` is given, `row` is the subject's whole new row in
    that projection (None: the row goes). `seq` and `at` (seconds since 1970) are set by the state room.
    """

    kind: str
    subject: str
    table: Table | None = None
    row: dict[str, Any] | None = None
    run: str | None = None
    reason: str | None = None
    data: dict[str, Any] = {}
    seq: int = 0
    at: float = 0.0
