"""Ollama: writes Modelfiles, creates models on a server and serves them."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.ollama.modelfile import WriteModelfile
from qwend_plugins.ollama.serve import Serve


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (WriteModelfile(), Serve())
