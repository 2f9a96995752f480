"""Which data sets are read by a step of their own before anything else reads them. Pure.

A data set that says `column`, `sample` or `seed`, and one that is read as text and is no text file, becomes two steps:
the source (`NAME.source`), and under its own name the rows in the one layout that every engine reads.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from qwend.model.artifact import Pin

ENGINE = "calibration/sample"
"""The engine that reads rows: `column`, `sample` and `seed` of a data set are its parameters."""

OPTIONS = ("column", "sample", "seed")
_PLAIN = (".txt", ".raw", ".md", ".jsonl")
"""Endings of what engines read as it lies."""

_TABLES = (".parquet", ".arrow", ".feather", ".csv", ".tsv", ".json")


def inner(name: str) -> str:
    """The name of the source of a data set that is read by a step. No recipe can say it."""
    return f"{name}.source"


def wanted(pin: Pin, options: dict[str, Any]) -> dict[str, Any] | None:
    """The parameters of the step that reads the rows; None for what is read as it lies."""
    if not pin.type.startswith("dataset/"):
        return None
    said = {key: options[key] for key in OPTIONS if key in options}
    if not said and (pin.type != "dataset/text" or not _table(pin)):
        return None
    return {"sample": None, **said}


def _table(pin: Pin) -> bool:
    """Whether the files hold columns. Of a folder of this machine its source says what is in it."""
    names = [file.path for file in pin.files] or ([pin.local] if pin.local else [])
    endings = {PurePosixPath(name).suffix.lower() for name in names} | {
        str(pin.facts.extra.get("format", ""))
    }
    return not endings.intersection(_PLAIN) and bool(endings.intersection(_TABLES))
