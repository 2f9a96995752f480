"""qwend turns a recipe into a running Qwen model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwend.notebook import connect as connect

__version__ = "0.1.0"
__all__ = ["__version__", "connect"]


def __getattr__(name: str) -> Any:
    """`connect` is imported when it is asked for: the command line, which needs none of it, stays quick."""
    if name == "connect":
        from importlib import import_module

        return import_module("qwend.notebook").connect
    raise AttributeError(f"module 'qwend' has no attribute {name!r}")
