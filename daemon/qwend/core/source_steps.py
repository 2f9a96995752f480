"""Steps that stand for a recipe's sources: used where they lie, or fetched first. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from qwend.core import fingerprint
from qwend.core.binding import describe
from qwend.core.placement import Refusal
from qwend.core.sourcing import Sought
from qwend.core.step_parts import refuse_pickles
from qwend.core.terms import Terms
from qwend.core.wording import show
from qwend.errors import QwendError, UsageError
from qwend.model.artifact import Pin
from qwend.model.image import ImageSpec
from qwend.model.memory import vocabulary_bytes
from qwend.model.plan import CompiledStep
from qwend.plugin.protocols import Source


def referenced(sought: Sought, pin: Pin) -> CompiledStep:
    """The step of a source as it was pinned. Raises UsageError for pickles that nobody allowed."""
    index = sought.references.index(pin.ref) if pin.ref in sought.references else 0
    where = sought.where[index]
    if not sought.options.get("allow_pickle"):
        refuse_pickles(sought.name, pin, where)
    parts = fingerprint.of_source(pin)
    return CompiledStep(
        name=sought.name,
        engine=pin.ref.partition(":")[0],
        kind="source",
        fingerprint=fingerprint.fingerprint("source", parts),
        ingredients=fingerprint.labels(parts),
        where=where,
        pin=pin,
        produces=pin.type,
        facts=pin.facts,
        notices=(pin.notice,) if pin.notice else (),
    )


def fetched(
    step: CompiledStep, sought: Sought, pin: Pin, sources: Mapping[str, Source], terms: Terms
) -> CompiledStep:
    """The same step with what fetches it. Raises QwendError where nothing does, or nowhere."""
    provider = sources.get(step.engine)
    if provider is None:
        raise UsageError(f"no plugin resolves {step.engine}: references", where=step.where)
    question = provider.fetch(pin, sought.options, terms.host)
    if question is None:
        raise QwendError(
            f"{step.engine}: says nothing of how {show(pin.ref)} is fetched", code="plugin-failed"
        )
    image, launch = question.image, question.launch
    flavour = image.flavour if isinstance(image, ImageSpec) else "cpu"
    try:
        runtime, why = terms.place(flavour, "auto", image)
    except Refusal as refusal:
        raise refusal.kind(f"{step.name}: {refusal.message}", hint=refusal.hint, where=step.where) from None
    sizes = [file.size for file in pin.files]
    known = None if not sizes or None in sizes else sum(size for size in sizes if size is not None)
    said = launch.resources
    disk = said.disk and said.disk + vocabulary_bytes(pin.type, pin.facts)
    return msgspec.structs.replace(
        step,
        image=image,
        launch=launch,
        runtime=runtime,
        flavour=flavour,
        chosen=f"{runtime}: {why}",
        # what is fetched counts as a download; more disk is what the source says beyond it
        resources=msgspec.structs.replace(said, disk=disk if known is None else None),
        secrets=launch.secrets,
        command=describe(launch),
        plugin=getattr(provider, "distribution", ""),
    )
