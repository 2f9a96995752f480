"""What a model is worth, and what a quantised one has lost: perplexity, divergence, speed, answers, tasks."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.evaluate.compare import Compare
from qwend_plugins.evaluate.measures import Golden, KlDivergence, Perplexity, Speed
from qwend_plugins.evaluate.select import Select
from qwend_plugins.evaluate.tasks import Tasks


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (Perplexity(), KlDivergence(), Speed(), Golden(), Tasks(), Compare(), Select())
