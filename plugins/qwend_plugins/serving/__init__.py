"""What the engines of several plugins share where they serve a checkpoint or answer batches. No plugin of its own."""

from qwend_plugins.serving.adapters import adapter_findings, base_of
from qwend_plugins.serving.batches import BatchParams, batch_words, identity, sampling
from qwend_plugins.serving.command import flags
from qwend_plugins.serving.memory import GIB, answering
from qwend_plugins.serving.probes import API_KEY, chat_probe

__all__ = [
    "API_KEY",
    "GIB",
    "BatchParams",
    "adapter_findings",
    "answering",
    "base_of",
    "batch_words",
    "chat_probe",
    "flags",
    "identity",
    "sampling",
]
