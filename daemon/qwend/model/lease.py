"""What is held, and by whom."""

from __future__ import annotations

from typing import Literal

import msgspec

LeaseKind = Literal["port", "gpu", "memory", "cpus", "heavy"]


class Lease(msgspec.Struct, frozen=True):
    """A held port, share of a card, or part of the machine.

    `name` is the port number or the card's UUID; `amount` is a share (0 to 1) of a card, bytes of memory,
    or a number of CPUs. `holder` is `recipe/step`. A sticky lease outlives the process: a service keeps its port.
    """

    kind: LeaseKind
    name: str
    holder: str
    amount: float = 1.0
    sticky: bool = False
