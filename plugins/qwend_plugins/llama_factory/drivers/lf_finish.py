"""After a training: proves that something was learned, keeps what is worth keeping, names the base by its name."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from both_ways import write_both_ways
from lf_checkpoints import settle
from lf_report import Refused, metric, report
from lf_stages import REWARD
from lf_tensors import folder, learned, size

RECORD = "training.json"
"""What the adapter or model was trained on and how: written beside it."""
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def finish(out: Path, plan: dict[str, Any]) -> None:
    """Leaves in `out` what becomes the artifact. Raises Refused where the result is none."""
    adapter = plan["arguments"].get("finetuning_type", "lora") in ("lora", "oft")
    tensors = folder(out, "adapter_model*.safetensors" if adapter else "model*.safetensors")
    if plan["arguments"].get("finetuning_type", "lora") == "lora" and not learned(tensors):
        raise Refused(
            "the adapter is as it was before the training: nothing was learned",
            "train for more steps, or with a larger learning_rate or a shorter warm-up",
        )
    for name in ("training_args.bin", "README.md"):  # a pickle; a card that names folders of this machine
        (out / name).unlink(missing_ok=True)
    steps = settle(out, plan["keep_checkpoints"], adapter)
    for place in (out, *out.glob("checkpoint-*")):
        if plan["arguments"].get("stage") == "ppo":  # it saves the reward adapter beside its own
            shutil.rmtree(place / REWARD, ignore_errors=True)
        _name_base(place, plan["base"])
        write_both_ways(place)
    _figures(out)
    numbers, total, dtype = size(tensors)
    fact = {"parameters": numbers, "bytes": total, "dtype": _DTYPES.get(dtype, dtype.lower())}
    report(fact=fact | {"template": plan["template"], "extra": {**plan["extra"], "checkpoints": steps}})
    record = {key: plan[key] for key in ("base", "template", "rows")} | {"arguments": plan["told"]}
    (out / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _name_base(folder: Path, base: str) -> None:
    """The base's name instead of the folder that it lay in while it was read."""
    for name, key in (("adapter_config.json", "base_model_name_or_path"), ("config.json", "_name_or_path")):
        path = folder / name
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            if key in config:
                config[key] = base
                path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _figures(out: Path) -> None:
    """The last figures of the trainer, as metrics."""
    told: dict[str, Any] = {}
    for name in ("train_results.json", "eval_results.json"):
        path = out / name
        told |= json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key in ("train_loss", "eval_loss", "train_runtime", "train_samples_per_second"):
        value = told.get(key)
        if isinstance(value, (int, float)) and math.isfinite(value):
            metric(key, float(value))
    if isinstance(told.get("eval_loss"), (int, float)) and told["eval_loss"] < 50:
        metric("eval_perplexity", math.exp(told["eval_loss"]))
    state = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))
    metric("steps", state["global_step"])
