"""Rows of training data as mlx-lm reads them: `messages` with tools beside them, or `text`.

What a row may look like, and what is wrong with one, is decided by the reader that LLaMA-Factory's engines have
(`lf_data.py`); here its one form becomes OpenAI's.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lf_data import prepare
from lf_report import Refused
from mlx_start import DriverError

Row = dict[str, Any]
_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}


@dataclass(frozen=True)
class Learned:
    """Rows as mlx-lm's trainer takes them: tokens, and where the answer begins (0: all of it is learned)."""

    rows: list[tuple[list[int], int]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> tuple[list[int], int]:
        return self.rows[at]

    def process(self, row: tuple[list[int], int]) -> tuple[list[int], int]:
        return row

    def cut(self, limit: int) -> tuple[int, int]:
        """How many rows are longer than `limit` tokens, and the number (from 1; 0: none) of the first of which no token
        of the answer is left to learn: its loss would be no number."""
        long = sum(len(tokens) > limit for tokens, _ in self.rows)
        lost = (
            at for at, (tokens, begin) in enumerate(self.rows, 1) if min(len(tokens), limit) <= max(begin, 1)
        )
        return long, next(lost, 0)


def write_rows(sources: dict[str, Path], target: Path, scratch: Path, stage: str) -> int:
    """Write the rows of every source to `target` (JSON lines); how many there are. `stage`: sft or pt.

    Raises DriverError with the file and line of the first broken row; the log has the others.
    """
    try:
        prepare(sources, scratch, stage)
    except Refused as error:
        raise DriverError(error.message, error.hint) from None
    count, part = 0, target.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        for name in sources:
            with (scratch / f"{name}.jsonl").open(encoding="utf-8") as file:
                for line in file:
                    row = json.loads(line)
                    out.write(json.dumps(row if stage == "pt" else chat(row)) + "\n")
                    count += 1
    os.replace(part, target)
    return count


def chat(row: Row) -> Row:
    """One row of the reader's form in OpenAI's words."""
    messages = [{"role": "system", "content": row["system"]}] if row["system"] else []
    for turn in row["conversations"]:
        if turn["from"] == "function_call":
            calls = [{"type": "function", "function": call} for call in json.loads(turn["value"])]
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        else:
            messages.append({"role": _ROLES[turn["from"]], "content": turn["value"]})
    found: Row = {"messages": messages}
    if row["tools"]:
        try:
            found["tools"] = json.loads(row["tools"])
        except ValueError:
            raise DriverError("tools of a row are no JSON", "write them as OpenAI does") from None
    return found
