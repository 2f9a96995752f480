"""GPTQ and AWQ with GPTQModel, AutoGPTQ's successor.

    python q_gptqmodel.py OPTIONS.json --source DIR --texts DIR --out DIR --scratch DIR [--device cpu|cuda] [--batch N]

Runs inside the image and imports nothing of qwend. `OPTIONS` holds `quantize` (fields of GPTQModel's QuantizeConfig),
`samples`, `length` and the `claim`. Ends by becoming `q_reload.py`, which holds the result against the claim.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from both_ways import for_older
from q_calibration import read_texts, rows_of
from q_finish import become_reload, carry_over, readable
from q_report import Trouble, guarded, progress, report, say
from q_tensors import check_source

FLOOR = 0.001
"""A share of modules that got no calibration at all is told from this on (GPTQModel rounds them to the nearest)."""


def main() -> None:
    parser = argparse.ArgumentParser(description="GPTQ and AWQ with GPTQModel.")
    parser.add_argument("options", type=Path)
    for name in ("source", "texts", "out", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--trust-remote-code", action="store_true")
    args = parser.parse_args()
    options: dict[str, Any] = json.loads(args.options.read_text(encoding="utf-8"))
    args.source = for_older(args.source, args.scratch / "source")
    quantise(args, options)
    become_reload(args, "gptqmodel")


def quantise(args: argparse.Namespace, options: dict[str, Any]) -> None:
    wanted = options["quantize"]
    check_source(args.source, wanted["group_size"], 32)
    texts = read_texts(args.texts)
    progress("load", 0, 1)
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        str(args.source), trust_remote_code=args.trust_remote_code
    )
    transformers.utils.logging.set_verbosity_error()
    rows = rows_of(texts, tokenizer.encode, options["samples"], options["length"])
    from gptqmodel import BACKEND, GPTQModel

    config = quantize_config(wanted, args)
    model = GPTQModel.load(str(args.source), config, trust_remote_code=args.trust_remote_code)
    layers = int(getattr(model.model.config.get_text_config(), "num_hidden_layers", 0)) or 1

    def layer_complete(layer_idx: int, submodule_finalized: bool) -> None:
        if submodule_finalized:
            progress("quantise", layer_idx + 1, layers, "layer")

    model.layer_callback = layer_complete
    packing = {"backend": BACKEND.AWQ_TORCH} if args.device == "cpu" and wanted["method"] == "awq" else {}
    model.quantize(
        [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows],
        batch_size=args.batch,
        calibration_data_min_length=0,  # `rows_of` left those out and said so
        **packing,  # the default packs for cards
    )
    progress("write", 0, 1)
    model.save(str(args.out), max_shard_size=options["shard_size"])
    tell_losses(args.out / "quant_log.csv")
    carry_over(args.source, args.out)
    readable(args.out)
    progress("write", 1, 1)


def quantize_config(wanted: dict[str, Any], args: argparse.Namespace) -> Any:
    """GPTQModel's configuration. Its fields differ from version to version: one that the recipe asks for and that
    this version lacks is an error, never dropped."""
    from gptqmodel import quantization

    fields = {name: value for name, value in wanted.items() if value is not None}
    method = fields.pop("method")
    kind = getattr(quantization.config, f"{method.upper()}Config", quantization.config.QuantizeConfig)
    known = {field.name for field in dataclasses.fields(kind)}
    if missing := sorted(set(fields) - known):
        raise Trouble(f"this GPTQModel has no {', '.join(missing)}", "leave it out, or take another device")
    fields["method" if "method" in known else "quant_method"] = method
    own = {"device": args.device, "offload_to_disk_path": str(args.scratch / "offload")}
    fields |= {name: value for name, value in own.items() if name in known}
    try:
        return quantization.config.QuantizeConfig(**fields)
    except (ValueError, TypeError) as error:
        raise Trouble(f"GPTQModel refuses these parameters: {error}") from None


def tell_losses(file: Path) -> None:
    """The mean loss over all matrices, as a metric: what one compares two groups of parameters by."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            found = [row.get("loss", "") for row in csv.DictReader(lines)]
    except OSError:
        return
    losses, rounded = list[float](), 0
    for text in found:
        try:
            losses.append(float(text))
        except ValueError:  # "fallback(rtn): …" stands in place of a figure
            rounded += 1
    losses = [loss for loss in losses if math.isfinite(loss)]
    if losses:
        report(metric={"name": "quantization_loss", "value": sum(losses) / len(losses)})
        say(f"mean loss {sum(losses) / len(losses):.3g} over {len(losses)} matrices")
    if rounded > FLOOR * len(found):
        say(
            f"{rounded} of {len(found)} matrices saw too few calibration tokens and were rounded to the nearest"
        )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    guarded(main)
