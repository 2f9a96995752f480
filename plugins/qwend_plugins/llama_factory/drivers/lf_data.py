"""Checks data sets and registers them for LLaMA-Factory: JSON lines of one layout, and a ``dataset_info.json``.

Standard library only. All that is wrong with the rows is told at once, up to a dozen, before anything is loaded.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from lf_files import read
from lf_report import Refused, metric
from lf_rows import aligned, layout_of

MOST_TOLD = 12
INFO = "dataset_info.json"


def prepare(datasets: dict[str, Path], folder: Path, stage: str) -> dict[str, int]:
    """Writes every data set and the register into `folder`; gives the number of rows of each.

    Raises Refused with every broken row, by file and line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    register, counts = {}, {}
    for name, path in datasets.items():
        counts[name], layout = _write(path, folder / f"{name}.jsonl", stage)
        register[name] = entry(f"{name}.jsonl", stage)
        print(f"{name}: {counts[name]} rows, {layout}", flush=True)
        metric("rows", counts[name], of=name)
    (folder / INFO).write_text(json.dumps(register, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return counts


def entry(file: str, stage: str) -> dict[str, Any]:
    """What LLaMA-Factory has to know of a file of ours."""
    if stage == "pt":
        return {"file_name": file, "columns": {"prompt": "text"}}
    columns = {"messages": "conversations", "system": "system", "tools": "tools"}
    if stage in ("dpo", "rm"):
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    if stage == "kto":
        columns["kto_tag"] = "kto_tag"
    return {
        "file_name": file,
        "formatting": "sharegpt",
        "columns": columns,
        "ranking": stage in ("dpo", "rm"),
    }


def _write(source: Path, target: Path, stage: str) -> tuple[int, str]:
    wrong: list[str] = []
    count, broken, layout, hint = 0, 0, "", ""
    partial = target.with_suffix(".part")
    with partial.open("w", encoding="utf-8") as out:
        for place, row in read(source):
            try:
                layout = layout or layout_of(row)
                out.write(json.dumps(aligned(row, layout, stage), ensure_ascii=False) + "\n")
                count += 1
            except Refused as error:
                broken += 1
                hint = hint or error.hint
                if len(wrong) < MOST_TOLD:
                    wrong.append(f"{place} {error.message}")
    if wrong:
        partial.unlink()
        for line in wrong:
            print(line, file=sys.stderr, flush=True)
        more = f", and {broken - 1} more rows are broken: the log lists them" if broken > 1 else ""
        raise Refused(wrong[0] + more, hint)
    os.replace(partial, target)
    return count, layout
