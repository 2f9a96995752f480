"""Whether a service can start beside the one that it replaces. Pure: what the machine has, not what is free now."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.model.host import Host
from qwend.model.memory import human
from qwend.model.plan import CompiledStep


def obstacle(step: CompiledStep, steps: Iterable[CompiledStep], host: Host) -> str | None:
    """Why both cannot run at once, `step` being one of `steps`; None if they can, as far as it is known."""
    if step.policy.port is not None:
        return f"port {step.policy.port} is fixed"
    if step.resources.heavy:
        return "each wants the machine to itself"
    return _memory(step, steps, host) or _cards(step, host)


def _memory(step: CompiledStep, steps: Iterable[CompiledStep], host: Host) -> str | None:
    need = _needs(step)
    if need is None or host.memory is None:
        return None
    together = need + sum(_needs(other) or 0 for other in steps if other.kind == "service")
    if together <= host.memory:
        return None
    return f"both at once would need {human(together)} of memory, and this machine has {human(host.memory)}"


def _needs(step: CompiledStep) -> int | None:
    return step.policy.memory or step.resources.memory


def _cards(step: CompiledStep, host: Host) -> str | None:
    named, need = step.policy.gpus, step.resources.gpu_memory
    count = len(named) or step.resources.gpus
    if count == 0:
        return None
    cards = [gpu for gpu in host.gpus if not named or {str(gpu.index), gpu.uuid} & set(named)]
    # A card is good for both if two shares fit on it; else each wants cards of its own.
    shared = sum(2 * max(step.policy.gpu_share, (need or 0) / gpu.memory) <= 1.0 for gpu in cards)
    if shared >= count or shared + (len(cards) - shared) // 2 >= count:
        return None
    return "both would need the same card" if count == 1 else "both would need the same cards"
