"""Measure the speed of models with llama-bench.

    python lc_bench.py --tool llama-bench --out DIR --model NAME=FILE … -- ARGUMENTS

Each test of llama-bench is a metric by the tool's own name (`pp512`: a prompt of 512 tokens, `tg128`: 128 generated,
`pp512+tg128`, `@ d4096` as `_d4096`) in tokens a second; `report.json` holds its rows whole.
Exit codes: 0 done, 1 it cannot be measured, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lc_common import ToolError, metric, report, run, told


def label(row: dict[str, Any]) -> str:
    """The test's name, as llama-bench's own table has it."""
    prompt, generated, depth = row.get("n_prompt", 0), row.get("n_gen", 0), row.get("n_depth", 0)
    parts = [f"pp{prompt}"] * bool(prompt) + [f"tg{generated}"] * bool(generated)
    return "+".join(parts) + (f"_d{depth}" if depth else "")


def bench(tool: str, name: str, model: str, rest: list[str]) -> list[dict[str, Any]]:
    printed: list[str] = []
    run([tool, "-m", model, "-o", "json", *rest], stdout=printed.append)
    try:
        rows = json.loads(printed[0])
    except ValueError:
        raise ToolError(f"{name}: llama-bench printed no JSON", "the step's log says why") from None
    if not isinstance(rows, list) or not rows:
        raise ToolError(f"{name}: llama-bench measured nothing", "name n_prompt or n_gen")
    return [{"model": name, "test": label(row), **row} for row in rows]


def main(argv: list[str]) -> None:
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description="Measure the speed of models with llama-bench.")
    parser.add_argument("--tool", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    args = parser.parse_args(argv[:at])
    rows: list[dict[str, Any]] = []
    for number, said in enumerate(args.model):
        name, _, model = said.partition("=")
        report(progress={"phase": name, "done": number, "total": len(args.model), "unit": "models"})
        rows += bench(args.tool, name, model, argv[at + 1 :])
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row["model"], row["test"])
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:  # the same test with another setting: the report tells them apart
            continue
        metric(row["test"], row["avg_ts"], row["model"])
        if len(args.model) == 1:
            metric(row["test"], row["avg_ts"])
        where = f"{row['model']:24} {row['test']:>14}"
        print(f"{where} {row['avg_ts']:10.2f} ± {row['stddev_ts']:.2f} tokens/s", file=sys.stderr, flush=True)
    (args.out / "report.json").write_text(json.dumps({"measure": "speed", "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    told(main, sys.argv[1:], "bench")
