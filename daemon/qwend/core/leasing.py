"""Who may take cards, memory, CPUs and the turn of heavy steps now. Pure: snapshots in, a decision out.

All that a step needs is taken at once, so no two steps can wait for each other. The queue is first come,
first served, with one relaxation: a later step may pass an earlier one as long as it takes nothing that the
earlier one is waiting to have. What the earliest waiters need is therefore set aside as it becomes free, and
nobody starves. A step that waits for something that a service holds (which may never end) sets nothing aside:
otherwise one such wait would idle the whole machine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from qwend.core.room import EPSILON, Card, Room
from qwend.core.wants import Want, is_named, never
from qwend.model.host import Host
from qwend.model.lease import Lease
from qwend.model.memory import human

_ENOUGH = 4
"""As many holders are named in a reason; the rest are counted."""


class Grant(msgspec.Struct, frozen=True):
    """A step may start: these leases replace whatever it held. `gpus` are UUIDs in PCI order."""

    holder: str
    leases: tuple[Lease, ...]
    gpus: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """Every holder of the queue is in exactly one of the three. `reasons` say what a step waits for and who
    holds it; `refused` what this machine can never give."""

    grants: tuple[Grant, ...]
    reasons: dict[str, str]
    refused: dict[str, str]


def decide(
    queue: Sequence[Want],
    held: Iterable[Lease],
    host: Host,
    *,
    lasting: Collection[str] = (),
    heavy_at_once: int = 1,
) -> Decision:
    """Whom of `queue` (longest waiting first) to let go now, given what is `held`.

    `host` must be a fresh snapshot: what other programs use is read from its free memory. `lasting` are the
    holders that end only when they are told to (services).
    """
    leases = tuple(held)
    fresh: tuple[Lease, ...] = ()
    grants: list[Grant] = []
    reasons: dict[str, str] = {}
    refused: dict[str, str] = {}
    waiting: list[tuple[str, tuple[Lease, ...]]] = []
    for want in queue:
        problem = never(want, host)
        if problem:
            refused[want.holder] = problem
            continue
        gone = {want.holder, *want.instead_of}
        rest = tuple(lease for lease in leases if lease.holder not in gone)
        vacated = tuple(lease for lease in leases if lease.holder in gone)
        room = Room(host, rest, heavy_at_once, vacated=vacated, fresh=fresh)
        first = _first_in_line(want, room, waiting)
        lacking = _lacking(want, room, rest)
        if not lacking and first is None:
            # From what is left beside that which is kept for others, or it would get their card.
            grant = _grant(want, room.without(lease for _, aside in waiting for lease in aside))
            grants.append(grant)
            leases = (*rest, *grant.leases)
            fresh = (*fresh, *grant.leases)
        elif not lacking:
            reasons[want.holder] = f"waiting behind {first}, which came first and needs the same"
        else:
            reasons[want.holder] = "waiting for " + "; and for ".join(lacking)
            if first is None and _could_end(want, host, rest, lasting, heavy_at_once):
                waiting.append((want.holder, _set_aside(want, room)))
    return Decision(tuple(grants), reasons, refused)


def _fitting(want: Want, room: Room) -> list[Card]:
    """The cards to take: the named ones that fit, or the best of all that fit.

    A share goes to the fullest card that still has it, so that whole cards stay whole; a whole card is
    the one with the most free memory.
    """
    fitting = [
        card
        for card in room.cards
        if (not want.cards or is_named(card.gpu, want.cards)) and card.fits(want.share, want.gpu_memory)
    ]
    if want.share < 1.0:
        fitting.sort(key=lambda card: (card.share, card.gpu.index))
    else:
        fitting.sort(key=lambda card: (-card.memory, card.gpu.index))
    return fitting[: want.count]


def _short(want: Want, room: Room) -> set[str]:
    """The kinds of lease of which there is too little."""
    short = set()
    if want.count and len(_fitting(want, room)) < want.count:
        short.add("gpu")
    if want.memory is not None and room.memory is not None and want.memory > room.memory:
        short.add("memory")
    if want.cpus is not None and want.cpus > room.cpus + EPSILON:
        short.add("cpus")
    if want.heavy and room.heavy < 1:
        short.add("heavy")
    return short


def _lacking(want: Want, room: Room, held: tuple[Lease, ...]) -> list[str]:
    """What is missing, a phrase for each: `gpu 0: held by huanhuan/chat`. Empty if all is there."""
    short = _short(want, room)
    phrases = []
    if "gpu" in short:
        phrases.append(_lacking_cards(want, room, held))
    if "memory" in short:
        free = human(max(0.0, room.memory or 0.0))
        holders = _holders(held, "memory", human)
        phrases.append(f"{human(want.memory or 0)} of memory: {free} free, {holders}")
    if "cpus" in short:
        holders = _holders(held, "cpus", lambda amount: f"{amount:g}")
        phrases.append(f"{want.cpus:g} cpus: {max(0.0, room.cpus):g} free, {holders}")
    if "heavy" in short:
        others = sorted({lease.holder for lease in held if lease.kind == "heavy"})
        phrases.append(f"its turn among heavy steps: {', '.join(others)} runs")
    return phrases


def _lacking_cards(want: Want, room: Room, held: tuple[Lease, ...]) -> str:
    fitting = _fitting(want, room)
    short = [
        card
        for card in room.cards
        if card not in fitting and (not want.cards or is_named(card.gpu, want.cards))
    ]
    why = "; ".join(_taken(card, want, held) for card in short[:_ENOUGH])
    if want.cards:
        return why
    part = "" if want.share >= 1.0 else f" ({want.share:g} of each)"
    return f"{want.count} gpu{'s' * (want.count > 1)}{part}: {len(fitting)} free, {why}"


def _taken(card: Card, want: Want, held: tuple[Lease, ...]) -> str:
    holders = [lease for lease in held if lease.kind == "gpu" and lease.name == card.gpu.uuid]
    if holders and not card.fits(want.share, None):
        named = ", ".join(
            lease.holder + ("" if lease.amount >= 1.0 else f" ({lease.amount:g} of it)")
            for lease in sorted(holders, key=lambda lease: lease.holder)
        )
        return f"gpu {card.gpu.index}: held by {named}"
    free = human(max(0, int(card.memory)))
    needs = f"needs {human(want.gpu_memory)}, " if want.gpu_memory is not None else ""
    by = "other programs hold the rest"
    if holders:
        by = f"{', '.join(sorted(lease.holder for lease in holders))} and other programs hold the rest"
    return f"gpu {card.gpu.index}: {needs}{free} free, {by}"


def _holders(held: tuple[Lease, ...], kind: str, show: Callable[[float], str]) -> str:
    amounts: dict[str, float] = {}
    for lease in held:
        if lease.kind == kind:
            amounts[lease.holder] = amounts.get(lease.holder, 0.0) + lease.amount
    if not amounts:
        return "other programs hold the rest"
    ranked = sorted(amounts.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{holder} ({show(amount)})" for holder, amount in ranked[:_ENOUGH])
    more = len(ranked) - _ENOUGH
    return f"held by {text}" + (f" and {more} more" if more > 0 else "")


def _first_in_line(want: Want, room: Room, waiting: list[tuple[str, tuple[Lease, ...]]]) -> str | None:
    """The earliest waiter whom it would set back, or who waits for the same; None if there is none."""
    for holder, aside in waiting:
        room = room.without(aside)
        kinds = {lease.kind for lease in aside if lease.kind != "gpu" or _may_take(want, lease.name, room)}
        if _short(want, room) & kinds:
            return holder
    return None


def _may_take(want: Want, uuid: str, room: Room) -> bool:
    """Whether a card is one of those that would do."""
    return any(
        card.gpu.uuid == uuid and (not want.cards or is_named(card.gpu, want.cards)) for card in room.cards
    )


def _grant(want: Want, room: Room) -> Grant:
    cards = sorted(_fitting(want, room), key=lambda card: card.gpu.index)
    return Grant(want.holder, _leases(want, cards), tuple(card.gpu.uuid for card in cards))


def _set_aside(want: Want, room: Room) -> tuple[Lease, ...]:
    """What of its needs is free already, to be kept for it."""
    chosen = _fitting(want, room)
    if len(chosen) < want.count:
        others = [
            card
            for card in room.cards
            if card not in chosen and (not want.cards or is_named(card.gpu, want.cards))
        ]
        others.sort(key=lambda card: (-card.share, card.gpu.index))
        chosen = (chosen + others)[: want.count]
    return _leases(want, chosen)


def _leases(want: Want, cards: Iterable[Card]) -> tuple[Lease, ...]:
    leases = [
        Lease("gpu", card.gpu.uuid, want.holder, card.part(want.share, want.gpu_memory)) for card in cards
    ]
    if want.memory is not None:
        leases.append(Lease("memory", "memory", want.holder, float(want.memory)))
    if want.cpus is not None:
        leases.append(Lease("cpus", "cpus", want.holder, want.cpus))
    if want.heavy:
        leases.append(Lease("heavy", "heavy", want.holder))
    return tuple(leases)


def _could_end(
    want: Want, host: Host, held: tuple[Lease, ...], lasting: Collection[str], heavy_at_once: int
) -> bool:
    """Whether it would fit once everything that ends by itself has ended."""
    stays = tuple(lease for lease in held if lease.holder in lasting)
    ends = tuple(lease for lease in held if lease.holder not in lasting)
    return not _lacking(want, Room(host, stays, heavy_at_once, vacated=ends), stays)
