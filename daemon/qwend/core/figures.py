"""Gates held to the figures that steps will have: a name that nothing reports is an error of the plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from qwend.core import gate
from qwend.core.suggest import did_you_mean
from qwend.core.wording import quote

Figures = Mapping[str, frozenset[str] | None]
"""Names of the figures in each step's report (`f16.perplexity`, `rows`); None where an engine does not tell them."""

_SHOWN = 24


def unknown(text: str, step: str, figures: Figures) -> tuple[str, str] | None:
    """What is wrong with a gate at `step`, and a hint; None if all that it compares will be there."""
    for metric in gate.parse(text).metrics:
        known = _known(metric, step, figures)
        if known is None or metric.name in known:
            continue
        guess = did_you_mean(metric.name, sorted(known))
        owner = metric.step or step
        said = sorted(name for name in known if "_at_" not in name)
        listed = ", ".join(said[:_SHOWN]) + (" …" if len(said) > _SHOWN else "")
        hint = f"it has {listed}" if said else "it is not measured there"
        return f"{owner} will have no figure {quote(metric.name)}{guess}", hint
    return None


def _known(metric: gate.Metric, step: str, figures: Figures) -> set[str] | None:
    """The figures that can be meant; None if nobody can tell.

    What the step itself reports of its inputs comes first, then what the named step reports of itself.
    """
    own = figures.get(step)
    if metric.step is None or metric.step == step:
        return None if own is None else {name for name in own if "." not in name}
    begin = f"{metric.step}."
    of = {name.removeprefix(begin) for name in own or () if name.startswith(begin)}
    other = figures.get(metric.step)
    if own is None or (other is None and not of):
        return None
    return of | {name for name in other or () if "." not in name}
