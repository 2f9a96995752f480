"""Choose one of the models of a report. Runs inside an image and imports nothing of qwend.

    python choose.py --report DIR --by size --where 'mean_kld<=0.05' --model q4=DIR --model q5=DIR

The report (the file in ``QWEND_REPORT``) gets `{"select": NAME}`, and what is known of the chosen one as its metrics.
"""

from __future__ import annotations

import argparse
import json
import operator
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from ev_common import EvalError, report, run

OPERATORS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq}
BOUND = re.compile(r"(?P<name>[a-z_][a-z0-9_]*)(?P<sign><=|>=|==|<|>)(?P<bound>[-+0-9.eE]+)")


def work(args: argparse.Namespace) -> None:
    told = json.loads((args.report / "report.json").read_text(encoding="utf-8"))
    names = [text.partition("=")[0] for text in args.model]
    models = [model for model in told["models"] if model["name"] in names]
    fitting = [model for model in models if all(holds(model["metrics"], bound) for bound in args.where)]
    if not fitting:
        raise EvalError(
            f"no model has {' and '.join(args.where)}: {seen(models, args.where)}", "ask for less"
        )
    key = "size" if args.by == "size" else "generation_speed"
    without = [model["name"] for model in fitting if key not in model["metrics"]]
    if without:
        raise EvalError(f"the report has no {key} of {without[0]}", "add speed to what is measured")
    chosen = min(fitting, key=lambda model: model["metrics"][key] * (1 if args.by == "size" else -1))
    report(select=chosen["name"])
    for name, value in chosen["metrics"].items():
        report(metric={"name": name, "value": value})
    print(f"{chosen['name']}: {seen([chosen], [*args.where, key])}", flush=True)


def holds(figures: dict[str, Any], text: str) -> bool:
    """Whether a comparison holds; a figure that is missing holds nothing."""
    found = BOUND.fullmatch(text)
    assert found is not None, text
    value = figures.get(found["name"])
    return value is not None and OPERATORS[found["sign"]](value, float(found["bound"]))


def seen(models: list[dict[str, Any]], bounds: list[str]) -> str:
    names = list(dict.fromkeys(re.split(r"[<>=]", bound)[0] for bound in bounds)) or ["size"]
    said = []
    for model in models:
        figures = " ".join(f"{name} {_figure(model['metrics'].get(name))}" for name in names)
        said.append(f"{model['name']} {figures}")
    return ", ".join(said)


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="choose", description="Choose one of the models of a report.")
    add = parser.add_argument
    add("--report", type=Path, required=True)
    add("--model", action="append", required=True, metavar="NAME=PLACE")
    add("--where", action="append", default=[], metavar="NAME<=NUMBER")
    add("--by", choices=("size", "speed"), required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run("choose", lambda: work(parsed(sys.argv[1:])))
