"""Quantise with llm-compressor into compressed-tensors, the format of vLLM's own making.

    python q_llmcompressor.py OPTIONS.json --source DIR [--texts DIR] --out DIR [--device cpu|cuda]

Runs inside the image and imports nothing of qwend. `OPTIONS` holds `scheme`, `algorithm` (`gptq`, `awq`, `rtn`), their
parameters, `samples`, `length` and the `claim`. Ends by becoming `q_reload.py`, which holds the result against it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from q_calibration import read_texts, rows_of
from q_finish import become_reload, carry_over, readable
from q_report import Trouble, guarded, progress
from q_tensors import check_source

HEAD = "lm_head"
"""Stays in 16 bits: with tied embeddings it is the embedding, and its error is the largest of all."""
ROUTERS = ("re:.*mlp.gate$", "re:.*shared_expert_gate$")


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantise with llm-compressor.")
    parser.add_argument("options", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--trust-remote-code", action="store_true")
    args = parser.parse_args()
    options: dict[str, Any] = json.loads(args.options.read_text(encoding="utf-8"))
    quantise(args, options)
    become_reload(args, "transformers")


def quantise(args: argparse.Namespace, options: dict[str, Any]) -> None:
    group = options["group_size"]
    check_source(args.source, group if group is not None else 0)
    texts = read_texts(args.texts) if args.texts else None
    progress("load", 0, 1)
    import torch
    import transformers

    torch.manual_seed(0)
    trust = args.trust_remote_code
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(args.source), trust_remote_code=trust)
    transformers.utils.logging.set_verbosity_error()
    data = {} if texts is None else calibration(texts, tokenizer, options)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(args.source), dtype="auto", trust_remote_code=trust
    )
    from llmcompressor import oneshot

    if not torch.accelerator.is_available():
        leave_memory_pageable()
    oneshot(model=model, processor=tokenizer, recipe=modifiers(options), **data)
    progress("write", 0, 1)
    model.save_pretrained(str(args.out), save_compressed=True, max_shard_size=options["shard_size"])
    tokenizer.save_pretrained(str(args.out))
    carry_over(args.source, args.out)
    readable(args.out)
    progress("write", 1, 1)


def calibration(texts: list[str], tokenizer: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `oneshot` that give it these texts, in their order."""
    from datasets import Dataset

    rows = rows_of(texts, tokenizer.encode, options["samples"], options["length"])
    return {
        "dataset": Dataset.from_list([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]),
        "num_calibration_samples": len(rows),
        "max_seq_length": options["length"],
        "shuffle_calibration_samples": False,
    }


def leave_memory_pageable() -> None:
    """llm-compressor pins its caches for the way to a card; without one, pinning fails."""
    from llmcompressor.pipelines import cache

    if not hasattr(cache.IntermediatesCache, "pin_memory"):
        raise Trouble(
            "this llm-compressor keeps its caches otherwise than the driver knows", "qwend images lock"
        )
    cache.IntermediatesCache.pin_memory = lambda self, batch_index: None


def modifiers(options: dict[str, Any]) -> list[Any]:
    """llm-compressor's recipe: what prepares the weights, then what rounds them."""
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    scheme: dict[str, Any] = {"targets": ["Linear"], "ignore": [HEAD, *ROUTERS, *options["ignore"]]}
    scheme |= _scheme(options)
    before: list[Any] = []
    if options["smoothing_strength"]:
        from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

        before.append(SmoothQuantModifier(smoothing_strength=options["smoothing_strength"]))
    if options["algorithm"] == "awq":
        from llmcompressor.modifiers.transform.awq import AWQModifier

        scale_only_what_is_rounded(AWQModifier)
        before.append(AWQModifier(duo_scaling=options["duo_scaling"], n_grid=options["n_grid"]))
    if options["algorithm"] != "gptq":
        return [*before, QuantizationModifier(**scheme)]
    order = options["actorder"]
    return [
        *before,
        GPTQModifier(
            block_size=options["block_size"],
            dampening_frac=options["dampening_frac"],
            actorder=None if order == "none" else order,
            **scheme,
        ),
    ]


def scale_only_what_is_rounded(kind: Any) -> None:
    """llm-compressor's AWQ also scales in front of matrices that `ignore` leaves out, and divides by zero there."""
    resolve = kind._set_resolved_mappings

    def careful(self: Any, model: Any) -> None:
        resolve(self, model)
        self._resolved_mappings = [
            mapping
            for mapping in self._resolved_mappings
            if any(getattr(layer, "quantization_scheme", None) for layer in mapping.balance_layers)
        ]

    kind._set_resolved_mappings = careful


def _scheme(options: dict[str, Any]) -> dict[str, Any]:
    """The preset by its name; with another group size or bits that have no preset, the same written out."""
    from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme

    if options["weights"] is None:
        return {"scheme": options["scheme"]}
    preset: QuantizationScheme = preset_name_to_scheme(options["scheme"], ["Linear"])
    if preset.weights is None:
        raise Trouble(f"{options['scheme']} quantises no weights")
    changed = preset.weights.model_copy(update=options["weights"])
    group = preset.model_copy(update={"weights": changed.model_validate(changed.model_dump())})
    return {"config_groups": {"group_0": group}}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    guarded(main)
