"""llama.cpp: converts checkpoints and adapters to GGUF, quantises, splits, measures, serves and talks to them."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.llama_cpp.bench import Bench
from qwend_plugins.llama_cpp.chat import Chat
from qwend_plugins.llama_cpp.complete import Complete
from qwend_plugins.llama_cpp.convert import Convert
from qwend_plugins.llama_cpp.convert_lora import ConvertLora
from qwend_plugins.llama_cpp.imatrix import Imatrix
from qwend_plugins.llama_cpp.perplexity import KlDivergence, Perplexity
from qwend_plugins.llama_cpp.quantize import Quantize
from qwend_plugins.llama_cpp.serve import Serve
from qwend_plugins.llama_cpp.split import Merge, Split


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (
        Convert(),
        ConvertLora(),
        Imatrix(),
        Quantize(),
        Split(),
        Merge(),
        Perplexity(),
        KlDivergence(),
        Bench(),
        Complete(),
        Chat(),
        Serve(),
    )
