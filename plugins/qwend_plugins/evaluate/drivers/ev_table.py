"""The report of a measurement: `report.json` for programs, `report.md` for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def human(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "size": ("size", human),
    "bits_per_weight": ("bits/weight", lambda value: f"{value:.2f}"),
    "perplexity": ("perplexity", lambda value: f"{value:.4f}"),
    "perplexity_ratio": ("ratio", lambda value: f"{value:.4f}"),
    "mean_kld": ("mean KLD", lambda value: f"{value:.5f}"),
    "same_top": ("same top token", lambda value: f"{100 * value:.2f} %"),
    "prompt_speed": ("prompt tok/s", lambda value: f"{value:.1f}"),
    "generation_speed": ("generation tok/s", lambda value: f"{value:.1f}"),
    "time_to_first_token": ("first token", lambda value: f"{value:.3f} s"),
    "peak_memory": ("peak memory", human),
    "golden_prompts_same": ("prompts alike", lambda value: f"{100 * value:.0f} %"),
    "golden_same": ("answers alike", lambda value: f"{100 * value:.0f} %"),
}
METHOD = (
    "windows of {context} tokens side by side; the second half of each is scored; a text begins with the model's own "
    "first token where it has one"
)


def write_report(
    out: Path, subjects: Sequence[Any], measures: list[str], settings: dict[str, Any], text: dict[str, Any]
) -> None:
    """`subjects` have name, size, parameters, figures, speed, answers, tokens, windows."""
    data: dict[str, Any] = {
        "measure": measures,
        "settings": settings,
        "text": text,
        "models": [
            {
                "name": subject.name,
                "size": subject.size,
                "parameters": subject.parameters,
                "metrics": subject.figures,
                "speed": subject.speed,
                "answers": [_answer(row) for row in subject.answers],
                "tokens_sha256": subject.tokens,
                "windows": subject.windows,
            }
            for subject in subjects
        ],
    }
    if text:
        data["method"] = METHOD.format(context=settings["context"])
    save(out, data)


def save(out: Path, data: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    lines = markdown(data)
    (out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("tokens", "answer")}


def markdown(data: dict[str, Any]) -> list[str]:
    """The tables, aligned for a terminal."""
    models = data["models"]
    shown = [key for key in COLUMNS if any(key in model["metrics"] for model in models)]
    rows = [["model", *(COLUMNS[key][0] for key in shown)]]
    for model in models:
        figures = model["metrics"]
        rows.append(
            [model["name"], *(COLUMNS[key][1](figures[key]) if key in figures else "–" for key in shown)]
        )
    lines = table(rows)
    if any(model["speed"] for model in models):
        head = ["model", "input", "batch", "prompt tok/s", "generation tok/s", "first token", "peak memory"]
        cells = [
            [model["name"], f"{row['input_length']:.0f}", f"{row['batch']:.0f}", *_speed_cells(row)]
            for model in models
            for row in model["speed"]
        ]
        lines += ["", *table([head, *cells])]
    if method := data.get("method"):
        windows = next((model["windows"] for model in models if model.get("windows")), 0)
        lines += ["", f"Perplexity over {windows} {method}."]
    return lines


def _speed_cells(row: dict[str, float]) -> list[str]:
    return [
        f"{row['prompt_speed']:.1f}",
        f"{row['generation_speed']:.1f}",
        f"{row['time_to_first_token']:.3f} s",
        human(row["peak_memory"]),
    ]


def table(rows: list[list[str]]) -> list[str]:
    """A Markdown table: the first column to the left, figures to the right."""
    wide = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if index == 0 else cell.rjust(width)
                 for index, (cell, width) in enumerate(zip(row, wide, strict=True))]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    marks = ["-" * width if index == 0 else "-" * (width - 1) + ":" for index, width in enumerate(wide)]
    return [lines[0], f"| {' | '.join(marks)} |", *lines[1:]]
