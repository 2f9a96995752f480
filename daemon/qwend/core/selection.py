"""Which steps of a recipe are meant: profiles, conditions, `qwend up STEP…`; and in which order. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qwend.core.loader import Loaded, Variant
from qwend.core.suggest import did_you_mean
from qwend.core.wording import quote
from qwend.errors import UsageError
from qwend.model.host import Host
from qwend.model.recipe import Step
from qwend.plugin.protocols import Engine


@dataclass(frozen=True)
class Selection:
    """`variants` in topological order (ties by the recipe's), the names of the `sources` that they read in the
    recipe's order, and the names of the variants that were left out."""

    variants: tuple[Variant, ...]
    sources: tuple[str, ...]
    left_out: tuple[str, ...]


def family(flavour: str) -> str:
    """The device that a flavour is for: `cuda12` runs on `cuda`."""
    return "cuda" if flavour.startswith("cuda") else flavour


def select(
    loaded: Loaded,
    engines: Mapping[str, Engine],
    host: Host,
    *,
    profiles: Iterable[str] = (),
    only: Iterable[str] = (),
    device: str | None = None,
) -> Selection:
    """The steps that are meant, with all that they need.

    Without `only`, those without a profile or with one of `profiles`; interactive steps never. A step whose
    condition does not hold is left out, and so is what depends on it. Raises UsageError for an unknown name,
    for a step that was asked for and cannot be had, and if nothing is left.
    """
    variants = {variant.name: variant for variant in loaded.variants}
    profiles = tuple(profiles)
    _require_profiles(loaded, profiles)
    asked = _asked(variants, tuple(only))
    chosen_device = device if device not in (None, "auto") else family(host.flavours()[0])
    reasons = _reasons(loaded, set(profiles), chosen_device, host.system, {variants[n].step for n in asked})
    _spread(variants, reasons)
    for name in asked:
        if name in reasons:
            raise UsageError(
                f"steps.{name} is left out here: {reasons[name]}",
                where=loaded.marks.step(name),
                code="left-out",
            )
    standing = [n for n in variants if n not in reasons and _supervised(loaded, engines, variants[n])]
    wanted = _closure(variants, asked or standing)
    if not wanted:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        hint = _hint(loaded, reasons)
        raise UsageError(f"no step is left to do ({why or 'all are interactive'})", code="nothing", hint=hint)
    read = {name for n in wanted for name in _reads(variants[n]) if name not in variants}
    sources = [name for name in (*loaded.recipe.models, *loaded.recipe.datasets) if name in read]
    return Selection(
        tuple(_ordered({name: variants[name] for name in variants if name in wanted})),
        tuple(sources),
        tuple(name for name in variants if name not in wanted),
    )


def _require_profiles(loaded: Loaded, profiles: tuple[str, ...]) -> None:
    """Raises UsageError for a profile that no step has: choosing it would do nothing."""
    known = dict.fromkeys(name for step in loaded.recipe.steps.values() for name in step.profiles)
    for name in profiles:
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "no step has any"
            raise UsageError(
                f"no step has the profile {quote(name)}{did_you_mean(name, known)}",
                code="unknown-profile",
                hint=there,
            )


def _hint(loaded: Loaded, reasons: Mapping[str, str]) -> str:
    """What would leave something to do."""
    steps = {variant.name: loaded.recipe.steps[variant.step] for variant in loaded.variants}
    hidden = dict.fromkeys(
        profile for name, why in reasons.items() if "profile" in why for profile in steps[name].profiles
    )
    if hidden:
        return " or ".join(f"--profile {name}" for name in hidden)
    if reasons:
        return "the conditions under when: decide that; --device asks for another device"
    return "interactive steps are started by name: qwend run, qwend chat"


def _asked(variants: Mapping[str, Variant], only: tuple[str, ...]) -> list[str]:
    found: dict[str, None] = {}
    for name in only:
        meant = [variant.name for variant in variants.values() if name in (variant.name, variant.step)]
        if not meant:
            known = [*variants, *(variant.step for variant in variants.values())]
            guess = did_you_mean(name, dict.fromkeys(known))
            raise UsageError(f"there is no step {quote(name)} in the recipe{guess}", code="unknown-step")
        found.update(dict.fromkeys(meant))
    return list(found)


def _supervised(loaded: Loaded, engines: Mapping[str, Engine], variant: Variant) -> bool:
    return engines[loaded.recipe.steps[variant.step].uses].kind != "interactive"


def _reasons(loaded: Loaded, profiles: set[str], device: str, system: str, asked: set[str]) -> dict[str, str]:
    """Why variants are left out on their own account. A step that is asked for by name needs no profile."""
    found = {}
    for variant in loaded.variants:
        step = loaded.recipe.steps[variant.step]
        reason = _reason(step, profiles, device, system, variant.step in asked)
        if reason is not None:
            found[variant.name] = reason
    return found


def _reason(step: Step, profiles: set[str], device: str, system: str, asked: bool) -> str | None:
    if step.when is not None:
        if step.when.device is not None and step.when.device != device:
            return f"it is for {step.when.device}, and this runs on {device}"
        if step.when.system is not None and step.when.system != system:
            return f"it is for {step.when.system}, and this is {system}"
    if step.profiles and not profiles.intersection(step.profiles) and not asked:
        return f"its profile {' or '.join(step.profiles)} is not chosen"
    return None


def _spread(variants: Mapping[str, Variant], reasons: dict[str, str]) -> None:
    """What depends on a step that is left out is left out too."""
    consumers: dict[str, list[str]] = {}
    for variant in variants.values():
        for name in _before(variant):
            consumers.setdefault(name, []).append(variant.name)
    pending = list(reasons)
    while pending:
        gone = pending.pop()
        for name in consumers.get(gone, ()):
            if name not in reasons:
                reasons[name] = f"it needs {gone}, and {reasons[gone]}"
                pending.append(name)


def _closure(variants: Mapping[str, Variant], targets: Iterable[str]) -> set[str]:
    wanted: set[str] = set()
    pending = list(targets)
    while pending:
        name = pending.pop()
        if name in variants and name not in wanted:
            wanted.add(name)
            pending += _before(variants[name])
    return wanted


def _ordered(variants: Mapping[str, Variant]) -> Iterable[Variant]:
    """Each step after what it needs; the loader has refused circles."""
    place = {name: index for index, name in enumerate(variants)}
    names = list(variants)
    waits = {name: {other for other in _before(variants[name]) if other in place} for name in variants}
    consumers: dict[str, list[str]] = {}
    for name, others in waits.items():
        for other in others:
            consumers.setdefault(other, []).append(name)
    ready = [place[name] for name, others in waits.items() if not others]
    heapq.heapify(ready)
    while ready:
        name = names[heapq.heappop(ready)]
        yield variants[name]
        for consumer in consumers.get(name, ()):
            waits[consumer].discard(name)
            if not waits[consumer]:
                heapq.heappush(ready, place[consumer])


def _reads(variant: Variant) -> list[str]:
    return [*variant.inputs, *(name for names in variant.given.values() for name in names)]


def _before(variant: Variant) -> list[str]:
    return [*_reads(variant), *variant.needs]
