"""What answering with a checkpoint takes, on the card or in the machine."""

from __future__ import annotations

from qwend.plugin import Resources, StepView, estimate, human

GIB = 1024**3


def answering(
    step: StepView,
    context: int | None,
    *,
    library: int,
    sequences: int = 1,
    beside: int = 0,
    dtype_bytes: int | None = None,
) -> Resources:
    """Weights, key/value cache of `sequences` at `context` tokens, headroom; unknown where a fact is.

    `library` is the resident set of the libraries before any weight, in bytes; `beside` are further weights
    (adapters). On cards everything but the libraries is split evenly among them.
    """
    model = step.inputs[0]
    bits = None if dtype_bytes is None else 8.0 * dtype_bytes
    found = estimate(model.facts, context, sequences=sequences, bits=bits)
    cards = step.gpus if step.flavour.startswith("cuda") else 0
    if found is None:
        return Resources(gpus=cards)
    need = found.total + beside
    note = found.describe() + (f", adapters {human(beside)}" if beside else "")
    if cards:
        return Resources(memory=library + 2 * GIB, gpu_memory=need // cards, gpus=cards, note=note)
    return Resources(memory=need + library, note=f"{note}, libraries {human(library)}")
