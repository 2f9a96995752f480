"""llm-compressor: W4A16, W8A8 and FP8 checkpoints in compressed-tensors, the format of vLLM's own making."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.llm_compressor.quantize import Quantize


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (Quantize(),)
