"""Put the reports of earlier measurements side by side: `python tabulate_reports.py --report NAME=DIR … --out DIR`.

The models keep their names. Perplexities stand beside each other only where the very same tokens were scored.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from ev_common import EvalError, metric, report, run
from ev_table import save


def work(args: argparse.Namespace) -> None:
    models: list[dict[str, Any]] = []
    data: dict[str, Any] = {"measure": [], "settings": {}, "text": {}, "models": models}
    for text in args.report:
        name, _, place = text.partition("=")
        told = _read(Path(place), name)
        data["measure"] += [what for what in told["measure"] if what not in data["measure"]]
        data["settings"], data["text"] = told["settings"] or data["settings"], told["text"] or data["text"]
        data["method"] = told.get("method") or data.get("method")
        for model in told["models"]:
            _add(models, model)
    _check(models)
    for model in models:
        for key, value in model["metrics"].items():
            metric(model["name"], key, value)
    save(args.out, data)
    report(fact={"extra": {"measure": data["measure"]}})


def _read(place: Path, name: str) -> dict[str, Any]:
    try:
        told = json.loads((place / "report.json").read_text(encoding="utf-8"))
        assert isinstance(told["models"], list)
    except (OSError, ValueError, KeyError, AssertionError, TypeError):
        raise EvalError(f"{name} is no report of a measurement", "name steps of evaluate/…") from None
    return dict(told)


def _add(models: list[dict[str, Any]], model: dict[str, Any]) -> None:
    """One line a model: what several reports say of it is one."""
    known = next((other for other in models if other["name"] == model["name"]), None)
    if known is None:
        models.append(model)
        return
    known["metrics"] |= model["metrics"]
    for key in ("speed", "answers", "tokens_sha256", "windows"):
        known[key] = model.get(key) or known.get(key)


def _check(models: list[dict[str, Any]]) -> None:
    digests = {model["tokens_sha256"]: model["name"] for model in models if model.get("tokens_sha256")}
    if len(digests) > 1:
        names = " and ".join(list(digests.values())[:2])
        raise EvalError(
            f"{names} were measured on different tokens: their perplexities cannot be compared",
            "give both the same text, context and chunks; a changed tokenizer cannot be compared at all",
        )


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tabulate", description="Put reports side by side.")
    parser.add_argument("--report", action="append", required=True, metavar="NAME=PLACE")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run("tabulate", lambda: work(parsed(sys.argv[1:])))
