"""Files of training data, row by row, each row with the line that it begins at.

Standard library only; pyarrow is asked where a file is Parquet.
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lf_report import Refused

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".txt")


class Place(NamedTuple):
    """Where a row stands: the file's name, the line that it begins at, its number from 1."""

    file: str
    line: int
    row: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: row {self.row}"


def files_of(path: Path) -> list[Path]:
    """The files with rows below a path, in a fixed order."""
    if path.is_file():
        return [path]
    found = sorted(item for item in path.rglob("*") if item.is_file() and item.suffix.lower() in SUFFIXES)
    rows = [item for item in found if item.suffix.lower() != ".txt"]
    # where the same text lies as rows and as plain text, the rows are meant
    chosen = rows or found
    if not chosen:
        raise Refused(f"{path.name} holds no file of rows", f"these are read: {', '.join(SUFFIXES)}")
    return chosen


def read(path: Path) -> Iterator[tuple[Place, Any]]:
    """Every row of a file or folder, undecoded rows refused with their line."""
    count = 0
    for file in files_of(path):
        for line, row in _read_file(file):
            count += 1
            yield Place(file.name, line, count), row
    if not count:
        raise Refused(f"{path.name} has no rows")


def _read_file(path: Path) -> Iterator[tuple[int, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _read_parquet(path)
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        before = path.read_bytes()[: error.start]
        raise Refused(
            f"{path.name}:{before.count(10) + 1}: not UTF-8 (byte {error.object[error.start]:#04x})",
            "save the file as UTF-8",
        ) from None
    if suffix == ".csv":
        reader = csv.DictReader(text.splitlines())
        for row in reader:
            yield reader.line_num, row
    elif suffix == ".txt":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield number, {"text": line.rstrip("\r")}
    elif text.lstrip().startswith("["):
        yield from _read_list(path.name, text)
    else:
        yield from _read_lines(path.name, text)


def _read_lines(name: str, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else "no JSON"
            raise Refused(
                f"{name}:{number}: this line is no JSON ({said})", "one object a line, or one list of objects"
            ) from None


def _read_list(name: str, text: str) -> Iterator[tuple[int, Any]]:
    """The items of one JSON list, each with the line that it begins at."""
    decoder = json.JSONDecoder()
    at, line, counted = text.index("[") + 1, 1, 0

    def skip(at: int, what: str) -> int:
        while at < len(text) and text[at] in what:
            at += 1
        return at

    while True:
        at = skip(at, " \t\r\n")
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]":
            return
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            wrong = error.lineno if isinstance(error, json.JSONDecodeError) else line
            said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
            raise Refused(
                f"{name}:{wrong}: no JSON ({said}), in the row that begins at line {line}"
            ) from None
        yield line, row
        at = skip(at, " \t\r\n")
        if text[at : at + 1] not in (",", "]"):
            wrong = text.count("\n", 0, at) + 1
            raise Refused(f"{name}:{wrong}: a comma or the end of the list should stand here")
        at += text[at] == ","


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    parquet: Any = importlib.import_module("pyarrow.parquet")
    number = 0
    for batch in parquet.ParquetFile(path).iter_batches(1024):
        for row in batch.to_pylist():
            number += 1
            yield number, row
