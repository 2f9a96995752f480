"""AWQ: 4-bit checkpoints for vLLM and transformers, or its scales alone on the way to a GGUF."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.awq.quantize import Quantize
from qwend_plugins.awq.scale import Scale


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (Quantize(), Scale())
