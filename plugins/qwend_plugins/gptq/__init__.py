"""GPTQ: checkpoints in 2, 3, 4 or 8 bits by GPTQModel, AutoGPTQ's successor."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.gptq.quantize import Quantize


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (Quantize(),)
