"""Where models and data come from: hubs, files of this machine, web addresses; and `hub/fetch`."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, Source, hookimpl
from qwend_plugins.hub.fetch import Fetch
from qwend_plugins.hub.files import Files
from qwend_plugins.hub.hubs import HuggingFace, ModelScope
from qwend_plugins.hub.web import Web


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return [Fetch()]


@hookimpl
def qwend_sources() -> Iterable[Source]:
    return [HuggingFace(), ModelScope(), Files(), Web()]
