"""Rows of data sets, drawn the way the datasets library draws them: what calibrates a model or measures it."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.calibration.sample import Sample


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (Sample(),)
