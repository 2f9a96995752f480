"""Rows of data files as plain values: JSON lines, JSON, CSV, TSV, Parquet, Arrow, text.

Travels with `sample.py`; pyarrow is imported where a file needs it. What is wrong with a file is a `RowsError`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROWS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
TEXTS = (".txt", ".raw", ".md")
RECORD, RECORD_MARK = "rows.json", "rows_sha256"
"""What `sample.py` leaves beside the rows that it drew: no rows."""
MAGIC = {
    b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file", b"\xff\xff\xff\xff": "an Arrow stream",
    b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive", b"GGUF": "a GGUF model",
    b"(\xb5/\xfd": "a zstd archive", b"\x80\x04": "a Python pickle", b"\x80\x05": "a Python pickle",
}  # fmt: skip


class RowsError(Exception):
    """A known failure: one line for the user, and a hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def data_files(place: Path) -> list[Path]:
    """The files of a data set in the order of their names; of a folder that holds both, rows come before text."""
    if place.is_file():
        return [place]
    drawn = place / "data.jsonl"
    if drawn.is_file() and (place / RECORD).is_file() and RECORD_MARK in (place / RECORD).read_text("utf-8"):
        return [drawn]
    found = sorted(
        (file for file in place.rglob("*") if file.is_file() and not file.name.startswith(".")),
        key=lambda file: file.relative_to(place).as_posix(),
    )
    rows = [file for file in found if file.suffix.lower() in ROWS]
    named = [file for file in rows if file.stem not in ("dataset_info", "dataset_infos", "state", "config")]
    chosen = named or [file for file in found if file.suffix.lower() in TEXTS]
    if not chosen:
        names = ", ".join(file.name for file in found[:5]) or "nothing"
        raise RowsError(f"there are no rows to read: {names}", f"known are {' '.join((*ROWS, *TEXTS))}")
    return chosen


def read_text(file: Path) -> str:
    """A text file as text. A binary one is refused: measured as text it would give a figure that means nothing."""
    data = file.read_bytes()
    kind = next((said for sign, said in MAGIC.items() if data.startswith(sign)), None)
    if kind is None and b"\0" in data[: 1 << 20]:
        kind = "a binary file"
    if kind is not None:
        raise RowsError(
            f"{file.name} is {kind}, not text", "name it by what it is (.parquet, .arrow), or export its text"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowsError(f"{file.name} is not UTF-8: byte {error.start}", "convert it to UTF-8") from None


def rows(file: Path) -> Sequence[Any]:
    """The rows of one file: dicts, or strings for a list of strings and for text (one row a line)."""
    match file.suffix.lower():
        case ".parquet":
            return _table(file, _parquet)
        case ".arrow" | ".feather":
            return _table(file, _arrow)
        case ".csv" | ".tsv":
            dialect = "excel" if file.suffix.lower() == ".csv" else "excel-tab"
            return list(csv.DictReader(io.StringIO(read_text(file), newline=""), dialect=dialect))
        case ".jsonl":
            return list(_lines(file))
        case ".json":
            return _json(file)
        case _:
            return list(io.StringIO(read_text(file), newline="\n"))


def _lines(file: Path) -> Iterator[Any]:
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            yield _row(line, f"{file.name}:{number}")


def _json(file: Path) -> list[Any]:
    """A list of rows, an object with one list of them (`{"data": […]}`), or JSON lines under another name."""
    text = read_text(file)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and "\n" in text.strip():
            return list(_lines(file))
        raise RowsError(f"{file.name} is no JSON: {error}") from None
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise RowsError(f"{file.name} holds no list of rows")
    return value


def _row(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowsError(f"{place}: no JSON: {error}") from None


def _table(file: Path, read: Any) -> Sequence[Any]:
    import pyarrow as pa

    try:
        found: list[Any] = read(file, pa).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise RowsError(
            f"{file.name} cannot be read: {str(error).splitlines()[0]}", "fetch it again"
        ) from None
    return found


def _parquet(file: Path, pa: Any) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(file).read()


def _arrow(file: Path, pa: Any) -> Any:
    """The datasets library saves streams; others save files."""
    with pa.memory_map(str(file)) as source:
        try:
            return pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source).read_all()
