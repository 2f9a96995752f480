"""What export, chat and serve share: LLaMA-Factory's arguments for a model, or a base with an adapter."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lf_report import Refused
from lf_tensors import folder, must_fit


def options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name what is loaded."""
    parser.add_argument("--arguments", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the base, or a whole model")
    parser.add_argument("--adapter", type=Path)


def arguments(said: argparse.Namespace) -> dict[str, Any]:
    """LLaMA-Factory's arguments. Raises Refused where the adapter does not fit the base."""
    told: dict[str, Any] = json.loads(said.arguments.read_text(encoding="utf-8"))
    told["model_name_or_path"] = str(said.model)
    if said.adapter:
        if not said.adapter.is_dir():
            there = (
                ", ".join(sorted(path.name for path in said.adapter.parent.glob("checkpoint-*"))) or "none"
            )
            raise Refused(f"the adapter has no {said.adapter.name}", f"checkpoints that were kept: {there}")
        must_fit(folder(said.adapter, "adapter_model*.safetensors"), folder(said.model), "the adapter")
        told["adapter_name_or_path"] = str(said.adapter)
    return told
