"""The `venv` realisation of images: locked environments on the host."""

from qwend.adapters.venv.builder import VenvBuilder
from qwend.adapters.venv.record import Record

__all__ = ["Record", "VenvBuilder"]
