"""What `docker inspect` says of a container, in our words. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from qwend.adapters.docker.identity import MARKER
from qwend.model.service import Exit, Handle

LIVING = ("running", "paused", "restarting")
ENDED = ("exited", "dead", "stopped")
"""States in the engine's words; `stopped` is Podman's."""
_NEVER = "0001-01-01"
_SIGNALS = range(129, 129 + 64)


def handle_of(inspected: Mapping[str, Any]) -> Handle:
    """Handle of an inspected container."""
    state = inspected["State"]
    return Handle(
        runtime="docker",
        marker=inspected["Config"]["Labels"].get(MARKER, ""),
        id=inspected["Id"],
        pid=state.get("Pid") or None,
        started=state.get("StartedAt") or None,
    )


def exit_of(inspected: Mapping[str, Any], killed: bool) -> Exit:
    """How an ended container ended; `killed` says that we did it at the deadline.

    The init process in the container tells a signal as 128 + its number. The engine's own flag says that
    memory ended something in it: it counts where the container ended badly. Peak memory is told where it
    is known: at the limit.
    """
    state = inspected["State"]
    status = int(state.get("ExitCode") or 0)
    oom = bool(state.get("OOMKilled")) and status != 0
    signal = status - 128 if status in _SIGNALS else None
    finished = state.get("FinishedAt") or _NEVER
    lost = finished.startswith(_NEVER)
    return Exit(
        marker=inspected["Config"]["Labels"].get(MARKER, ""),
        code=None if signal is not None or lost else status,
        signal=signal,
        oom=oom,
        killed=killed,
        lost=lost,
        peak=(inspected["HostConfig"].get("Memory") or None) if oom else None,
        at=0.0 if lost else seconds(finished),
    )


def not_started(inspected: Mapping[str, Any], last: str) -> str | None:
    """The program that could not be started, as a line for the log, where the engine's init (Podman's) ended with
    `last` words that do not name it."""
    found = re.search(r"^ERROR \(catatonit:\d+\): failed to exec pid1: (.+)$", last, re.MULTILINE)
    entry = inspected["Config"].get("Entrypoint") or ["?"]
    program = entry.split(" ")[0] if isinstance(entry, str) else entry[0]
    return f"{program}: {found[1]}\n" if found else None


def seconds(timestamp: str) -> float:
    """Seconds since 1970 of an RFC 3339 time with nanoseconds, such as the engine writes."""
    match = re.fullmatch(r"(.*T\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", timestamp)
    if match is None:
        raise ValueError(f"not a time: {timestamp}")
    whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")).timestamp()
    return whole + float(match[2] or 0)
