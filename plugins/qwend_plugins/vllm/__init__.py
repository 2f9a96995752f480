"""vLLM: serves checkpoints to many at once, and answers batches."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.vllm.batch import Batch
from qwend_plugins.vllm.serve import Serve


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (Serve(), Batch())
