"""Measure models on a text with llama.cpp's tools. One of

    python measure_text.py perplexity    --tool T --text DIR --out DIR --scratch DIR --model NAME=FILE … -- ARGUMENTS
    python measure_text.py kl-divergence … the first model is the reference
    python measure_text.py imatrix       … one model; OUT/imatrix.gguf is written

What the tools print is read, since their exit codes say too little: llama-perplexity ends with 0 for a text that is too
short, and under load its last lines may be lost (then it is run once more).
Exit codes: 0 done, 1 it cannot be measured, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lc_common import ToolError, metric, report, run, text_file, told, why

NAN = re.compile(r"\[\d+\][-+]?nan,")
NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf))"
FINAL = {
    "perplexity": rf"Final estimate: PPL = {NUMBER}",
    "perplexity_error": rf"Final estimate: PPL = \S+ \+/- {NUMBER}",
}
DIVERGED = {
    "perplexity": rf"Mean PPL\(Q\) *: *{NUMBER}",
    "perplexity_error": rf"Mean PPL\(Q\) *: *\S+ ± *{NUMBER}",
    "perplexity_ratio": rf"Mean PPL\(Q\)/PPL\(base\) *: *{NUMBER}",
    "mean_kld": rf"Mean +KLD: *{NUMBER}",
    "mean_kld_error": rf"Mean +KLD: *\S+ ± *{NUMBER}",
    "median_kld": rf"Median +KLD: *{NUMBER}",
    "p99_kld": rf"99\.0% +KLD: *{NUMBER}",
    "max_kld": rf"Maximum +KLD: *{NUMBER}",
    "rms_dp": rf"RMS Δp *: *{NUMBER}",
    "same_top": rf"Same top p: *{NUMBER}",
}
PERCENT = ("rms_dp", "same_top")
PLAIN = re.compile(r"\[(\d+)\]\s*[\d.naif]+,")
ROWS = re.compile(r"^\s*(\d+)\s+\S+ ±", re.MULTILINE)
TOTAL = re.compile(r"over (\d+) chunks|computing over (\d+) chunks|calculating perplexity over (\d+) chunks")


def listener(name: str, total: int | None = None) -> Callable[[str], None]:
    """Reads how far a tool is from what it said."""
    last = -1

    def heard(said: str) -> None:
        nonlocal last, total
        if total is None and (found := TOTAL.search(said)):
            total = int(next(group for group in found.groups() if group))
        done = [*PLAIN.findall(said[-4096:]), *ROWS.findall(said[-4096:])]
        if done and int(done[-1]) != last:
            last = int(done[-1])
            report(progress={"phase": name, "done": last, "total": total or last, "unit": "windows"})

    return heard


def figures(said: str, patterns: dict[str, str]) -> dict[str, float]:
    """The figures that the tool printed; none if its last lines are missing."""
    found = {name: re.search(pattern, said) for name, pattern in patterns.items()}
    first = found[next(iter(patterns))]
    if first is None:
        return {}
    values = {name: float(match[1]) for name, match in found.items() if match is not None}
    return {name: value / 100 if name in PERCENT else value for name, value in values.items()}


def no_numbers(name: str, figure: str, value: float) -> ToolError:
    return ToolError(
        f"{name}: {figure} is {value}: the model computes no numbers",
        "its weights are damaged, or 16-bit floats overflow: convert with outtype bf16 or f32",
    )


def measured(name: str, command: list[str], patterns: dict[str, str]) -> dict[str, float]:
    """Run the tool; once more where its last lines are lost. Raises ToolError for that twice, and for NaN."""
    said = ""
    for attempt in (1, 2):
        said = run(command, listener(name))
        got = figures(said, patterns)
        if got:
            wrong = [
                key for key, value in got.items() if not math.isfinite(value) and not key.endswith("_error")
            ]
            if wrong:
                raise no_numbers(name, wrong[0], got[wrong[0]])
            return got
        if NAN.search(said):  # then the tool prints no last line
            raise no_numbers(name, next(iter(patterns)), math.nan)
        known = why(said, 0)
        if known.hint or attempt == 2:
            break
        print(f"{name}: the tool's last lines are missing; measuring once more", file=sys.stderr, flush=True)
    if known.hint:
        raise ToolError(f"{name}: {known}", known.hint)
    raise ToolError(
        f"{name}: the tool ended twice without its last line ({next(iter(patterns))})",
        "a machine under heavy load loses it; the step's log holds the rest",
    )


def imatrix(args: argparse.Namespace, text: Path) -> None:
    name, model = args.model[0]
    out = args.out / "imatrix.gguf"
    said = run([args.tool, "-m", model, "-f", str(text), "-o", str(out), *args.rest], listener(name))
    if not out.is_file() or out.read_bytes()[:4] != b"GGUF":
        known = why(said, 0)
        raise ToolError(f"{known}" if known.hint else "no importance matrix was written", known.hint)
    got = figures(said, FINAL)
    if got and not math.isfinite(got["perplexity"]):
        raise ToolError(
            "the model computes no numbers (NaN): its importance matrix is worthless", "make it again"
        )
    chunks = PLAIN.findall(said)
    report(fact={"base": name, "extra": {"windows": int(chunks[-1]) if chunks else None}})
    for key, value in got.items():
        if math.isfinite(value):
            metric(key, value)


def perplexity(args: argparse.Namespace, text: Path) -> list[dict[str, Any]]:
    rows = []
    for name, model in args.model:
        rows.append(
            {"model": name, **measured(name, [args.tool, "-m", model, "-f", str(text), *args.rest], FINAL)}
        )
        tell(rows[-1], len(args.model) == 1)
    return rows


def kl_divergence(args: argparse.Namespace, text: Path) -> list[dict[str, Any]]:
    """The reference's logits are written once (16 bits for each token), then models are held against them."""
    logits = args.scratch / "logits"
    name, model = args.model[0]
    base = ["--kl-divergence-base", str(logits)]
    rows: list[dict[str, Any]] = [
        {"model": name, **measured(name, [args.tool, "-m", model, "-f", str(text), *base, *args.rest], FINAL)}
    ]
    tell(rows[0], False)
    for name, model in args.model[1:]:
        # The text stands in the logits file; the tool still demands to be told one.
        command = [args.tool, "-m", model, "-f", str(text), "--kl-divergence", *base, *args.rest]
        rows.append({"model": name, **measured(name, command, DIVERGED)})
        tell(rows[-1], len(args.model) == 2)
    logits.unlink(missing_ok=True)
    return rows


def tell(row: dict[str, Any], alone: bool) -> None:
    """The figures of one model as metrics; where there is only one model they need no name."""
    for key, value in row.items():
        if key != "model" and math.isfinite(value):
            metric(key, value, str(row["model"]))
            if alone:
                metric(key, value)


def pair(text: str) -> tuple[str, str]:
    name, _, file = text.partition("=")
    return name, file


def main(argv: list[str]) -> None:
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description="Measure models on a text with llama.cpp's tools.")
    parser.add_argument("what", choices=("perplexity", "kl-divergence", "imatrix"))
    parser.add_argument("--tool", required=True)
    for name in ("--text", "--out", "--scratch"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--model", type=pair, action="append", required=True)
    args = parser.parse_args(argv[:at])
    args.rest = argv[at + 1 :]
    args.scratch.mkdir(parents=True, exist_ok=True)
    text = text_file(args.text, args.scratch)
    if args.what == "imatrix":
        imatrix(args, text)
        return
    rows = (perplexity if args.what == "perplexity" else kl_divergence)(args, text)
    body = {"measure": args.what, "arguments": args.rest, "models": rows}
    (args.out / "report.json").write_text(
        json.dumps(body, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    told(main, sys.argv[1:], "llama.cpp")
