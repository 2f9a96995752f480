"""transformers: serves, chats and answers batches from a checkpoint as it is, adapters included."""

from __future__ import annotations

from collections.abc import Iterable

from qwend.plugin import Engine, hookimpl
from qwend_plugins.transformers.batch import Batch
from qwend_plugins.transformers.chat import Chat
from qwend_plugins.transformers.serve import Serve
from qwend_plugins.transformers.smoke import Smoke


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return (Serve(), Chat(), Batch(), Smoke())
