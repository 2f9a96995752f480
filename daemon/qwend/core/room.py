"""What of a machine is free, given leases and what other programs use. Pure arithmetic for `leasing`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from qwend.model.host import Gpu, Host
from qwend.model.lease import Lease

EPSILON = 1e-9
"""Shares are decimal fractions of a card: 0.4 + 0.6 must fit."""


class Card(msgspec.Struct, frozen=True):
    """One card: the free `share` of it (0 to 1) and the free `memory` in bytes."""

    gpu: Gpu
    share: float
    memory: float

    def part(self, share: float, memory: int | None) -> float:
        """The part of the card that is taken: the share, or more where the memory asks for more."""
        return max(share, 0.0 if memory is None else min(1.0, memory / self.gpu.memory))

    def fits(self, share: float, memory: int | None) -> bool:
        return self.part(share, memory) <= self.share + EPSILON and (memory is None or memory <= self.memory)


class Room:
    """What is free of `host` while `held` is held.

    Free memory is the lesser of two views: what the leases leave (a step that was let go a moment ago has
    touched none of its memory yet), and what the machine itself says is available (other programs hold memory
    too). The machine's own view is of a moment ago: what `vacated` leases hold is added to it (they are about
    to end), what `fresh` ones will hold is taken off (they were granted since).
    """

    def __init__(
        self,
        host: Host,
        held: Iterable[Lease],
        heavy_at_once: int,
        *,
        vacated: Iterable[Lease] = (),
        fresh: Iterable[Lease] = (),
    ) -> None:
        leases, gone, new = tuple(held), tuple(vacated), tuple(fresh)
        self.cards = tuple(_card(gpu, leases, gone, new) for gpu in host.gpus)
        self.cpus = host.cpus - _total(leases, "cpus")
        self.heavy = heavy_at_once - _total(leases, "heavy")
        self.memory: float | None = None
        if host.memory is not None:
            self.memory = host.memory - _total(leases, "memory")
            if host.memory_available is not None:
                available = host.memory_available + _total(gone, "memory") - _total(new, "memory")
                self.memory = min(self.memory, available)

    def without(self, leases: Iterable[Lease]) -> Room:
        """The same room with `leases` taken, as far as there is any of it: nothing goes below zero."""
        taken = tuple(leases)
        room = Room.__new__(Room)
        room.cards = tuple(_narrowed(card, taken) for card in self.cards)
        room.cpus = max(0.0, self.cpus - _total(taken, "cpus"))
        room.heavy = max(0.0, self.heavy - _total(taken, "heavy"))
        room.memory = None if self.memory is None else max(0.0, self.memory - _total(taken, "memory"))
        return room


def _total(leases: Iterable[Lease], kind: str) -> float:
    return sum(lease.amount for lease in leases if lease.kind == kind)


def _on(gpu: Gpu, leases: Iterable[Lease]) -> float:
    return sum(lease.amount for lease in leases if lease.kind == "gpu" and lease.name == gpu.uuid)


def _card(gpu: Gpu, held: tuple[Lease, ...], vacated: tuple[Lease, ...], fresh: tuple[Lease, ...]) -> Card:
    share = _on(gpu, held)
    memory = gpu.memory * (1.0 - share)
    if gpu.memory_free is not None:
        memory = min(memory, gpu.memory_free + (_on(gpu, vacated) - _on(gpu, fresh)) * gpu.memory)
    return Card(gpu, 1.0 - share, memory)


def _narrowed(card: Card, taken: tuple[Lease, ...]) -> Card:
    share = _on(card.gpu, taken)
    return Card(card.gpu, max(0.0, card.share - share), max(0.0, card.memory - share * card.gpu.memory))
