"""Which forms of a model fit a machine: `qwend fit`. Headers are read, nothing is fetched or run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from qwend.api.control import FileText, Json, RecipeRequest
from qwend.control.admin import PluginAdmin
from qwend.control.fit_recipe import advised, recipe
from qwend.control.planning import Planning
from qwend.core.fit import FORMATS, Fit, Format, fits, longest
from qwend.errors import UsageError
from qwend.model.artifact import Facts
from qwend.model.host import Host

DEFAULT_CONTEXT = 8192
_WHOLE = 15.0
"""Bits per weight from which a model counts as not quantised: it can become any of the forms."""


async def describe(
    planning: Planning,
    plugins: PluginAdmin,
    reference: str,
    context: int | None,
    form: str | None,
    directory: str,
    host: Host | None,
) -> Json:
    """Every form of the model against every place of the machine, with the engines that serve it, and the recipe of
    `form`, or else of the form to take.

    Raises UsageError for a reference that is no model or whose headers say too little, and for an unknown form.
    """
    if context is not None and context < 1:
        raise UsageError(f"a context of {context} tokens holds nothing", code="bad-context")
    text = json.dumps(
        {
            "name": "fit",
            "models": {"model": reference},
            "steps": {"fetched": {"uses": "hub/fetch", "from": "model"}},
        }
    )
    request = RecipeRequest((FileText("-", text),), directory, host=host)
    planned = await planning.plan(request, lambda _: None)
    step = next(one for one in planned.compiled.steps if one.name == "model")
    kind, facts = step.produces or "", step.facts
    if not kind.startswith("model/"):
        raise UsageError(f"{reference} is no model but {kind or 'something unknown'}", code="no-model")
    length = context or min(DEFAULT_CONTEXT, facts.context or DEFAULT_CONTEXT)
    serving = _serving(await plugins.plugins())
    found = fits(facts, planned.host, length, forms(kind, facts))
    taken = _named(form, found) if form is not None else advised(found, serving)
    return {
        "reference": step.pin.ref if step.pin else reference,
        "type": kind,
        "facts": msgspec.to_builtins(facts),
        "context": length,
        "trained_context": facts.context,
        "host": msgspec.to_builtins(planned.host),
        "fits": [_row(one, facts, serving) for one in found],
        "taken": {"format": taken.format.name, "type": taken.format.type, "place": taken.place}
        if taken
        else None,
        "recipe": taken and _recipe(reference, kind, facts, taken, length, planned.host, serving),
    }


def _recipe(
    reference: str,
    kind: str,
    facts: Facts,
    taken: Fit,
    length: int,
    host: Host,
    serving: dict[str, list[str]],
) -> str | None:
    engines = sorted(serving.get(taken.format.type, []))
    if not engines:
        return None
    aside = bool(host.gpus) and not taken.place.startswith("gpu")
    return recipe(reference, kind, taken, length, engines, quantised=_quantised(facts), aside=aside)


def _named(form: str, found: Sequence[Fit]) -> Fit:
    """The form that is called so, with its type before it where several are (`awq 4 bit`)."""

    def names(one: Fit) -> tuple[str, str]:
        name = one.format.name.lower()
        return name, f"{one.format.type.partition('/')[2]} {name}"

    meant = [one for one in found if form.strip().lower() in names(one)]
    if len({one.format.type for one in meant}) == 1:
        return next((one for one in meant if one.verdict == "fits"), meant[0])
    known = ", ".join(dict.fromkeys(names(one)[0] if not meant else names(one)[1] for one in meant or found))
    raise UsageError(
        f"{form[:80]!r} is {'several forms' if meant else 'none of its forms'}",
        code="no-such-form",
        hint=f"say one of {known}",
    )


def _quantised(facts: Facts) -> bool:
    return facts.bits is not None and facts.bits < _WHOLE


def forms(kind: str, facts: Facts) -> Iterable[Format]:
    """What the model can become: any form of a checkpoint, those of a GGUF; its own alone if it is quantised."""
    if not _quantised(facts):
        return FORMATS if kind == "model/safetensors" else [form for form in FORMATS if form.type == kind]
    own = next((form for form in FORMATS if form.type == kind and form.name == facts.dtype), None)
    flavours = own.flavours if own else next((f.flavours for f in FORMATS if f.type == kind), ("cpu", "cuda"))
    return (Format(kind, facts.dtype or f"{facts.bits:g} bit", facts.bits or 0.0, flavours),)


def _serving(plugins: list[Json]) -> dict[str, list[str]]:
    """Engines that serve, by artifact type."""
    found: dict[str, list[str]] = {}
    for plugin in plugins:
        for engine in plugin["engines"]:
            if engine["kind"] == "service":
                for kind in engine["accepts"]:
                    found.setdefault(kind, []).append(engine["name"])
    return found


def _row(fit: Fit, facts: Facts, serving: dict[str, list[str]]) -> dict[str, Any]:
    need = fit.estimate
    return {
        "format": fit.format.name,
        "type": fit.format.type,
        "bits": fit.format.bits,
        "place": fit.place,
        "verdict": fit.verdict,
        "memory": need.total if need else None,
        "weights": need.weights if need else None,
        "cache": need.cache if need else None,
        "headroom": need.headroom if need else None,
        "capacity": fit.capacity,
        "longest_context": longest(fit, facts),
        "engines": sorted(serving.get(fit.format.type, [])),
    }
