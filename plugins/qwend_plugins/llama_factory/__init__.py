"""LLaMA-Factory: fine-tunes models, merges adapters, talks to what came out."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.llama_factory.export import Export
from qwend_plugins.llama_factory.serve import Chat, Serve
from qwend_plugins.llama_factory.train import Train


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (Train(), Export(), Serve(), Chat())
