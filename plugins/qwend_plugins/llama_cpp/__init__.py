"""llama.cpp: converts checkpoints to GGUF, quantises them, serves them."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.llama_cpp.convert import Convert
from qwend_plugins.llama_cpp.quantize import Quantize
from qwend_plugins.llama_cpp.serve import Serve


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (Convert(), Quantize(), Serve())
