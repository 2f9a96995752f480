"""Calibration texts: read row by row from what a dataset artifact holds, and cut into tokens.

Runs inside an image and imports nothing of qwend. A dataset is a folder with ``data.jsonl`` (one ``{"text": …}`` a
line), or one file of the user's: JSON lines, a JSON list, or plain text with an empty line between two texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from q_report import Trouble, say

MAX_BYTES = 1 << 30
"""Calibration reads some hundred texts: a file beyond this is a corpus, to be sampled first."""
SHORTEST = 10
"""Rows of fewer tokens teach a quantiser nothing; GPTQModel's own limit."""


def find_file(path: Path) -> Path:
    """The file of rows: `path` itself, or the one in that folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise Trouble(f"there are no calibration texts at {path.name}")
    named = path / "data.jsonl"
    found = [named] if named.is_file() else _rows_in(path)
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:5]) or "none"
        raise Trouble(
            f"expected one file of texts, found {len(found)} ({names})",
            "name the file itself: file:folder/texts.jsonl",
        )
    return found[0]


def _rows_in(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.suffix in (".jsonl", ".json", ".txt", ".md")]


def read_texts(path: Path, column: str = "text", limit: int | None = None) -> list[str]:
    """The texts of a dataset in their order, at most `limit`. Raises Trouble with the line of a malformed row."""
    file = find_file(path)
    if file.stat().st_size > MAX_BYTES:
        raise Trouble(
            f"{file.name} has more than a gigabyte", "calibration/sample takes some hundred texts of it"
        )
    try:
        whole = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise Trouble(f"{file.name}:{line}: not UTF-8", "save the file as UTF-8") from None
    if file.suffix == ".jsonl" or (file.suffix == ".json" and whole.lstrip()[:1] == "{"):
        texts = [
            _text(_row(line, f"{file.name}:{number}"), column, f"{file.name}:{number}")
            for number, line in enumerate(whole.splitlines(), 1)
            if line.strip()
        ]
    elif file.suffix == ".json":
        texts = [
            _text(row, column, f"{file.name}: row {number}")
            for number, row in enumerate(_list(whole, file), 1)
        ]
    else:
        texts = [part.strip() for part in whole.replace("\r\n", "\n").split("\n\n") if part.strip()]
    blank = sum(not text.strip() for text in texts)
    if blank:  # public corpora have them: wikitext's headings stand between empty rows
        say(f"{file.name}: {blank} of {len(texts)} texts are empty and left out")
        texts = [text for text in texts if text.strip()]
    if not texts:
        raise Trouble(
            f"{file.name} holds no text", "calibration needs some: 128 texts of the model's own kind"
        )
    return texts[:limit]


def _row(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Trouble(f"{place}: no JSON ({str(error)[:80]})", 'one {"text": …} a line') from None


def _list(whole: str, file: Path) -> list[Any]:
    try:
        rows = json.loads(whole)
    except json.JSONDecodeError as error:
        raise Trouble(f"{file.name}:{error.lineno}: no JSON ({error.msg})") from None
    if not isinstance(rows, list):
        raise Trouble(f"{file.name}: expected a list of rows")
    return rows


def _text(row: Any, column: str, place: str) -> str:
    value = row.get(column) if isinstance(row, dict) else row
    if not isinstance(value, str):
        keys = f"it has {', '.join(map(str, list(row)[:5]))}" if isinstance(row, dict) else "it is no object"
        raise Trouble(f"{place}: no text under {column!r}: {keys}", "say column: NAME at the dataset")
    return value


def blocks(
    texts: Sequence[str], encode: Callable[[str], list[int]], samples: int, length: int
) -> list[list[int]]:
    """Rows of tokens as AutoAWQ takes them: the first `samples` texts of at most `length` tokens. Longer ones are left
    out, as AutoAWQ does, but counted. Raises Trouble where not one block of `length` tokens comes together."""
    rows, longer, shortest = list[list[int]](), 0, 0
    for text in texts:
        if len(rows) == samples:
            break
        row = encode(text.strip())
        if len(row) > length:
            longer += 1
            shortest = min(shortest or len(row), len(row))
        elif row:
            rows.append(row)
    tokens = sum(map(len, rows))
    if not rows:
        raise Trouble(
            f"all {longer} calibration texts are longer than max_calib_seq_len ({length} tokens), and AutoAWQ leaves "
            f"such texts out; the shortest has {shortest}",
            f"set max_calib_seq_len: {shortest} or more, or give it shorter texts",
        )
    if tokens < length:
        raise Trouble(
            f"the {len(rows)} calibration texts that fit have {tokens} tokens together, less than one block of "
            f"max_calib_seq_len ({length})" + (f"; {longer} longer ones were left out" if longer else ""),
            "give it more texts, or a smaller max_calib_seq_len",
        )
    left = f"; {longer} texts longer than {length} tokens are left out" if longer else ""
    say(f"calibration: {len(rows)} texts, {tokens} tokens, {tokens // length} blocks of {length}{left}")
    return rows


def rows_of(
    texts: Sequence[str], encode: Callable[[str], list[int]], samples: int, length: int
) -> list[list[int]]:
    """Rows of at most `length` tokens, longer texts cut: what GPTQModel and llm-compressor are given.

    Raises Trouble where no text has SHORTEST tokens."""
    rows, cut, short = list[list[int]](), 0, 0
    for text in texts:
        if len(rows) == samples:
            break
        row = encode(text)
        if len(row) < SHORTEST:
            short += 1
            continue
        cut += len(row) > length
        rows.append(row[:length])
    if not rows:
        raise Trouble(
            f"none of the {short} calibration texts has {SHORTEST} tokens: nothing to learn from",
            "give it whole sentences",
        )
    said = f"calibration: {len(rows)} texts, {sum(map(len, rows))} tokens"
    said += f"; {cut} cut to {length} tokens" if cut else ""
    say(said + (f"; {short} of fewer than {SHORTEST} left out" if short else ""))
    return rows
