"""Who holds the ports that a recipe fixes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from qwend.model.plan import Compiled


async def held_ports(
    compiled: Compiled, leases: Mapping[str, Mapping[str, Any]], taken: Callable[[int], str | None]
) -> dict[int, str]:
    """By port, `held by other/chat` or what `taken` says of it; what is free, or is this recipe's own (its services
    give theirs up in time), is not in it. `leases` are rows by holder; `taken` may block."""
    found: dict[int, str] = {}
    for step in compiled.steps:
        port = step.policy.port
        if step.kind != "service" or port is None:
            continue
        holders = [key for key, lease in leases.items() if lease["port"] == port and lease["active"]]
        if any(key.startswith(f"{compiled.recipe}/") for key in holders):
            continue
        by = f"held by {holders[0]}" if holders else await asyncio.to_thread(taken, port)
        if by is not None:
            found[port] = by
    return found
