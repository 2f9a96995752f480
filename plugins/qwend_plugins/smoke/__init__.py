"""`smoke:`: tiny models and small data, made on the spot, that touch no hub."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Source, hookimpl
from qwend_plugins.smoke.source import Smoke


@hookimpl
def qwend_sources() -> Iterable[Source]:
    return [Smoke()]
