"""Measure one checkpoint in a process of its own, so that its memory is its own: `python ev_subject.py TASK.json`.

The task says what to measure and where the result goes; see `Task` in measure.py.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from ev_common import Measured, Settings, read_text, run
from ev_talk import answers, speed
from ev_windows import Net, divergence, perplexity


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """What `task` asks for, by name of the measure."""
    settings = Settings(**{**task["settings"], **_tuples(task["settings"])})
    net: Net
    if task["family"] == "mlx":
        from ev_mlx import MlxNet

        net = MlxNet(task["name"], Path(task["place"]), settings)
    else:
        from ev_torch import TorchNet

        net = TorchNet(task["name"], Path(task["place"]), settings)
    found: dict[str, Measured] = {}
    for what in task["measure"]:
        match what:
            case "perplexity":
                save = Path(task["save"]) if task["save"] else None
                found[what] = perplexity(net, read_text(Path(task["text"])), settings, save)
            case "kl_divergence":
                found[what] = divergence(net, Path(task["base"]), settings)
            case "speed":
                found[what] = speed(net, settings)
            case "golden":
                found[what] = answers(net, task["prompts"], settings)
    return {what: dataclasses.asdict(measured) for what, measured in found.items()}


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) for key, value in settings.items() if isinstance(value, list)}


def main(argv: list[str]) -> None:
    task = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    Path(task["result"]).write_text(json.dumps(measure(task)), encoding="utf-8")


if __name__ == "__main__":
    run("measure", lambda: main(sys.argv[1:]))
