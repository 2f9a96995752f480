"""What a file is, from its name and its first row."""

from __future__ import annotations

import json
import re
from typing import Any

from qwend.plugin import UsageError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".zst", ".7z")
TEXTS = (".txt", ".raw", ".md", ".parquet", ".arrow", ".feather", ".csv", ".tsv")
ROWS = (".json", ".jsonl")
CONVERSATION = {"messages", "conversations", "instruction", "output", "chosen"}


def refused_pickle(name: str) -> UsageError:
    """The refusal of pickled weights."""
    return UsageError(
        f"{name} holds pickled weights, which can run code when they are read",
        code="pickle",
        hint="use safetensors or GGUF, or say allow_pickle: true at the source",
    )


def dataset_kind(suffix: str, options: dict[str, Any], head: str = "") -> str | None:
    """The artifact type of data: what the one reader wants, else what its ending and its first row look like."""
    wants = [str(want) for want in options.get("wants", ()) if str(want).startswith("dataset/")]
    if len(wants) == 1 and suffix in (*TEXTS, *ROWS):
        return wants[0]
    if options.get("column") or suffix in TEXTS:
        return "dataset/text"
    if suffix not in ROWS:
        return None
    row = first_row(head)
    if row is None:
        return wants[0] if wants else None
    if isinstance(row, dict) and CONVERSATION & row.keys():
        return "dataset/sft"
    return "dataset/prompts" if isinstance(row, str) or "prompt" in row else "dataset/text"


def first_row(head: str) -> dict[str, Any] | str | None:
    """The first row of a JSON list or of JSON lines, from the beginning of the file; None if it cannot be read."""
    start = re.match(r"\s*\[?\s*", head)
    try:
        row, _ = json.JSONDecoder().raw_decode(head, start.end() if start else 0)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, (dict, str)) else None
