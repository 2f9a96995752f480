"""qwend turns a recipe into a running Qwen model."""

__version__ = "0.1.0"
