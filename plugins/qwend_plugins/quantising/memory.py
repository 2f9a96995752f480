"""What quantising takes: the model, and the activations of the calibration texts."""

from __future__ import annotations

from qwend.plugin import Facts, Resources, StepView, human

GIB = 1024**3
_LIBRARIES = 3 * GIB // 2
"""Resident set with torch, transformers and the library imported, before any weight (measured: 0.8 to 1.3 GiB)."""
_WIDTH = 5.4
"""Inner width of a Qwen's MLP over its hidden size, at most (0.5B: 4864 of 896)."""


def quantising(
    step: StepView, result: Facts, *, tokens: int, element: int, at_once: int | None = None
) -> Resources:
    """Weights at `element` bytes, hidden states of `tokens`, and one layer's activations of those `at_once`.

    All three backends walk layer by layer: on a card lie one layer and its activations, in the machine the rest."""
    facts = step.inputs[0].facts
    cards = max(step.gpus, 1) if step.flavour.startswith("cuda") else 0
    if facts.parameters is None or facts.hidden is None or not facts.layers:
        return Resources(gpus=cards, disk=result.bytes, heavy=True)
    weights = facts.parameters * (2 if cards else element)
    states = 2 * tokens * facts.hidden * (2 if cards else element)
    # q, k, v, o and their sum; gate, up, their product and what goes down
    layer = int((at_once or tokens) * facts.hidden * (5 + 4 * _WIDTH) * element)
    hessian = int((facts.hidden * _WIDTH) ** 2 * 4 * 3)
    one = weights // facts.layers + layer + hessian
    parts = f"weights {human(weights)}, activations of {tokens} calibration tokens {human(states + layer)}"
    note = f"{parts}, matrices {human(hessian)}, libraries {human(_LIBRARIES)}"
    if cards:
        return Resources(
            memory=_LIBRARIES + weights + states,
            gpu_memory=max(one, result.bytes or 0) + GIB,  # the result is loaded once, whole
            gpus=cards,
            disk=result.bytes,
            heavy=True,
            note=note,
        )
    return Resources(
        memory=_LIBRARIES + weights + states + layer + hessian, disk=result.bytes, heavy=True, note=note
    )
