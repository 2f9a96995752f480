"""Train a LoRA adapter with mlx-lm's own trainer. Runs inside the image; imports nothing of qwend.

    python mlx_lora.py --model DIR --dataset NAME=DIR [--valid NAME=DIR] --arguments arguments.json --out DIR
                       --scratch DIR [--stage pt] [--trust-remote-code]

The adapter is written in PEFT's form and in mlx-lm's (`mlx_adapter.py`). A run that was killed goes on from the last
checkpoint in --out: its weights, not the optimizer's moments, since mlx-lm keeps none.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from mlx_adapter import write_adapter
from mlx_rows import Learned, write_rows
from mlx_start import DriverError, loading, report, run, whole_safetensors

WORK = ".mlx-lora"
"""Below --out: a folder for each attempt, `from-STEP`, with mlx-lm's checkpoints. Gone when all is well."""
LOSSES = "losses.jsonl"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a LoRA adapter with mlx-lm.")
    add = parser.add_argument
    add("--model", type=Path, required=True)
    add("--dataset", action="append", required=True, help="NAME=FOLDER; several are one after the other")
    add("--valid", action="append", default=[], help="NAME=FOLDER: what the loss is measured on besides")
    add(
        "--arguments", type=Path, required=True, help="JSON: mlx-lm's arguments, and `base`, the model's name"
    )
    add("--stage", choices=["sft", "pt"], default="sft")
    add("--out", type=Path, required=True)
    add("--scratch", type=Path, required=True)
    add("--trust-remote-code", action="store_true")
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> None:
    """Check the rows, train, and write the adapter. Raises DriverError."""
    told = json.loads(args.arguments.read_text(encoding="utf-8"))
    data = args.scratch / "data"
    data.mkdir(parents=True, exist_ok=True)
    for option, given in (("train", args.dataset), ("valid", args.valid)):
        if given:
            rows = write_rows(named(given), data / f"{option}.jsonl", args.scratch / option, args.stage)
            full(option, rows, int(told["batch_size"]))
    work = args.out / WORK
    done, last = newest(work)
    from mlx_lm import lora as tool
    from mlx_lm.utils import load

    report(progress={"phase": "load", "done": 0, "total": 1})
    settings = {"trust_remote_code": args.trust_remote_code}
    with loading():
        model, tokenizer = load(str(args.model), tokenizer_config=dict(settings), **settings)
    keys = chosen(model, told["lora_parameters"].get("keys"))
    asked = SimpleNamespace(**{**tool.CONFIG_DEFAULTS, **told, "train": True})
    asked.resume_adapter_file = None if last is None else str(last)
    asked.model = told["base"]  # for the heading of the log
    asked.data, asked.adapter_path = str(data), str(work / f"from-{done:07d}")
    asked.iters, asked.seed = (
        int(told["iters"]) - done,
        int(told["seed"]) + done,
    )  # other rows than at the beginning
    asked.num_layers = layers_of(len(model.layers), int(told["num_layers"]))
    asked.lora_parameters = {**told["lora_parameters"], "keys": keys}
    limit = int(told["max_seq_length"])
    learned, checked = ready(tool, asked, tokenizer, args.stage, limit)
    kept = args.out / LOSSES
    if done:
        print(f"goes on behind step {done}", flush=True)
    else:
        kept.unlink(missing_ok=True)
    if asked.iters > 0:
        tool.np.random.seed(asked.seed)
        tool.train_model(asked, model, learned, checked, Watch(kept, done, int(told["iters"])))
        last = Path(asked.adapter_path) / "adapters.safetensors"
    assert last is not None
    size = write_adapter(last, args.out, told["base"], asked.num_layers, asked.lora_parameters)
    report(fact={"base": told["base"], "bytes": size})
    shutil.rmtree(work, ignore_errors=True)


def named(given: list[str]) -> dict[str, Path]:
    """NAME=FOLDER, several times."""
    return {name: Path(path) for name, _, path in (one.partition("=") for one in given)}


def full(option: str, rows: int, size: int) -> None:
    """mlx-lm takes whole batches only. Raises DriverError where there is not one."""
    if rows < size:
        what = "dataset" if option == "train" else option
        raise DriverError(
            f"{rows} rows ({what}) do not fill a batch of {size}",
            f"say batch_size: {rows}, or give more rows",
        )


def layers_of(have: int, asked: int) -> int:
    """How many of the last layers are trained; -1 is all."""
    if asked > have:
        print(f"the model has {have} layers, fewer than {asked}: all are trained", flush=True)
    return have if asked == -1 else min(have, asked)


def chosen(model: Any, asked: list[str] | None) -> list[str]:
    """The linear layers of a block that are adapted, by name: those asked for, else all; where there are experts, those
    of attention, since adapters of experts have no form that another engine reads. Raises DriverError."""
    import mlx.nn as nn
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    modules = [(name, module) for layer in model.layers for name, module in layer.named_modules()]
    linear = {name for name, module in modules if isinstance(module, nn.Linear | nn.QuantizedLinear)}
    experts = any(isinstance(module, SwitchLinear | QuantizedSwitchLinear) for _, module in modules)
    if asked:
        if unknown := sorted(set(asked) - linear):
            raise DriverError(
                f"the model has no linear layer {unknown[0]}", f"it has {', '.join(sorted(linear))}"
            )
        return sorted(set(asked))
    return sorted(name for name in linear if not experts or "attn" in name)


def ready(tool: Any, asked: Any, tokenizer: Any, stage: str, limit: int) -> tuple[Learned, Learned]:
    """The rows as tokens, of training and of checking. Raises DriverError for rows that teach nothing."""
    if stage == "sft" and not getattr(tokenizer, "chat_template", None):
        raise DriverError(
            "the model has no chat template: a conversation cannot be written out", "train on text"
        )
    try:
        found = tool.load_dataset(asked, tokenizer)[:2]
        both = [
            Learned([one.process(one[at]) for at in range(len(one))] if len(one) else []) for one in found
        ]
    except Exception as error:  # whatever a template or a tokenizer raises
        raise DriverError(f"the rows cannot be written as tokens: {type(error).__name__}: {error}") from None
    for name, one in zip(("dataset", "valid"), both, strict=True):
        long, lost = one.cut(limit)
        if lost:
            raise DriverError(
                f"row {lost} of {name} is cut before its answer begins (max_seq_length: {limit})",
                "raise max_seq_length, or shorten the row",
            )
        if long:
            print(f"{name}: {long} of {len(one)} rows are longer than {limit} tokens, and cut", flush=True)
    report(metric={"name": "tokens", "value": sum(len(row) for row, _ in both[0].rows)})
    return both[0], both[1]


class Watch:
    """What mlx-lm calls with each loss."""

    def __init__(self, kept: Path, done: int, total: int) -> None:
        self._kept, self._done, self._total = kept, done, total

    def on_train_loss_report(self, told: dict[str, Any]) -> None:
        step, loss = self._done + int(told["iteration"]), float(told["train_loss"])
        self._keep({"step": step, "train_loss": loss, "learning_rate": float(told["learning_rate"])})
        said = {"done": step, "total": self._total, "unit": "steps", "message": f"loss {loss:.3f}"}
        report(progress={"phase": "train", **said})
        report(metric={"name": "train_loss", "value": round(loss, 6)})
        report(metric={"name": "tokens_per_second", "value": round(float(told["tokens_per_second"]), 2)})
        if not math.isfinite(loss):
            raise DriverError(
                f"the loss is {loss} at step {step}", "a smaller learning_rate or scale may hold"
            )

    def on_val_loss_report(self, told: dict[str, Any]) -> None:
        loss = float(told["val_loss"])
        self._keep({"step": self._done + int(told["iteration"]), "val_loss": loss})
        report(metric={"name": "val_loss", "value": round(loss, 6)})

    def _keep(self, row: dict[str, Any]) -> None:
        with self._kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def newest(work: Path) -> tuple[int, Path | None]:
    """The last whole checkpoint of earlier attempts, and how many steps lie behind it."""
    best: tuple[int, Path | None] = (0, None)
    for path in work.glob("from-*/*_adapters.safetensors"):
        number = re.fullmatch(r"(\d{7})_adapters\.safetensors", path.name)
        begun = re.fullmatch(r"from-(\d{7})", path.parent.name)
        if number and begun and whole_safetensors(path):
            best = max(best, (int(begun[1]) + int(number[1]), path), key=lambda one: one[0])
    return best


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    run("mlx_lora", lambda: train(args))


if __name__ == "__main__":
    main()
