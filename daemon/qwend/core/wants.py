"""What a step asks of the machine, and what the machine can never give. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from qwend.model.host import Gpu, Host
from qwend.model.memory import human
from qwend.model.plan import CompiledStep


class Want(msgspec.Struct, frozen=True):
    """What a step asks for. None is "unknown, so not reckoned with".

    `cards` names cards (index in PCI order, or UUID) and then counts for `gpus`; `share` (0 to 1) is the part
    of each card, `gpu_memory` bytes on each. The step's own leases, and those of `instead_of` (what it
    replaces), do not stand in its way.
    """

    holder: str
    cpus: float | None = None
    memory: int | None = None
    gpus: int = 0
    cards: tuple[str, ...] = ()
    share: float = 1.0
    gpu_memory: int | None = None
    heavy: bool = False
    instead_of: tuple[str, ...] = ()

    @staticmethod
    def of(holder: str, step: CompiledStep) -> Want:
        """What a compiled step asks for; a limit that the recipe sets is what it gets."""
        resources, policy = step.resources, step.policy
        return Want(
            holder,
            cpus=resources.cpus,
            memory=policy.memory or resources.memory,
            gpus=resources.gpus,
            cards=policy.gpus,
            share=policy.gpu_share,
            gpu_memory=resources.gpu_memory,
            heavy=resources.heavy,
        )

    @property
    def count(self) -> int:
        """How many cards."""
        return len(self.cards) or self.gpus


def never(want: Want, host: Host) -> str | None:
    """Why this machine cannot give what is wanted even when nothing else runs; None if it can."""
    for name in want.cards:
        if _named(host.gpus, name) is None:
            there = ", ".join(str(gpu.index) for gpu in host.gpus)
            return f"there is no gpu {name} here" + (f" (there are {there})" if there else " (there is none)")
    if len({_named(host.gpus, name) for name in want.cards}) < len(want.cards):
        return f"gpus {', '.join(want.cards)}: one card is named twice"
    if want.count > len(host.gpus):
        return f"needs {want.count} gpus; this machine has {len(host.gpus)}"
    if want.gpu_memory is not None and want.count:
        named = [gpu for gpu in host.gpus if not want.cards or is_named(gpu, want.cards)]
        enough = [gpu for gpu in named if gpu.memory >= want.gpu_memory]
        if len(enough) < want.count:
            largest = max(gpu.memory for gpu in named)
            return (
                f"needs {human(want.gpu_memory)} on each of {want.count} gpus; "
                f"{len(enough)} have that much (the largest has {human(largest)})"
            )
    if want.memory is not None and host.memory is not None and want.memory > host.memory:
        return f"needs {human(want.memory)} of memory; this machine has {human(host.memory)}"
    if want.cpus is not None and want.cpus > host.cpus:
        return f"needs {want.cpus:g} cpus; this machine has {host.cpus}"
    return None


def _named(gpus: Iterable[Gpu], name: str) -> str | None:
    return next((gpu.uuid for gpu in gpus if is_named(gpu, (name,))), None)


def is_named(gpu: Gpu, names: Collection[str]) -> bool:
    """Whether a card is one of those; names are indices in PCI order, or UUIDs."""
    return str(gpu.index) in names or gpu.uuid in names
