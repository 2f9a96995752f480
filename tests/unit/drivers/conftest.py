"""Drivers are files that run in an image beside their neighbours; their pure parts are tested here, without it."""

from __future__ import annotations

import sys
from pathlib import Path

PLUGINS = Path(__file__).parents[3] / "plugins" / "qwend_plugins"

for plugin in (
    "checkpoints",
    "evaluate",
    "hub",
    "llama_factory",
    "mlx",
    "ollama",
    "quantising",
    "serving",
    "smoke",
    "transformers",
    "vllm",
):
    sys.path.append(str(PLUGINS / plugin / "drivers"))
