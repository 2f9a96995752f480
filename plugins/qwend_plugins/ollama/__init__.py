"""Ollama: writes Modelfiles, creates models on a server and serves them."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, Source, hookimpl
from qwend_plugins.ollama.modelfile import WriteModelfile
from qwend_plugins.ollama.serve import Serve
from qwend_plugins.ollama.source import OllamaModels


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (WriteModelfile(), Serve())


@hookimpl
def qwend_sources() -> Iterable[Source]:
    return (OllamaModels(),)
