"""AWQ with AutoAWQ: a packed checkpoint, or the scales alone applied to the weights (`scale`).

    python q_awq.py OPTIONS.json --source DIR --texts DIR --out DIR --scratch DIR
        [--device cpu|cuda] [--parallel N]

Runs inside the image and imports nothing of qwend. A source that transformers 5 wrote is read through links, in the way
of 4. On a CPU it reckons in 32 bits (half precision is an order slower); what is written is in the format that the
step says. Ends by becoming `q_reload.py`, which holds the result against the claim.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from both_ways import for_older
from q_calibration import blocks, read_texts
from q_finish import become_reload, carry_over, readable
from q_report import Trouble, guarded, progress, say
from q_tensors import check_source, config_of, linears, tensors_of

CLIP, PACK = 64, 8
"""AutoAWQ's search for clipping takes outputs by 64, its packing by 8; all Qwens have multiples of 64."""
KINDS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def load(args: argparse.Namespace, architectures: Any) -> Any:
    """The source as AutoAWQ wraps it: in 32 bits on a CPU, as it is on a card."""
    import torch
    from awq import AutoAWQForCausalLM

    kind = str(config_of(args.source).get("model_type"))
    if kind not in architectures:
        raise Trouble(
            f"AutoAWQ does not know the architecture {kind} (it is no longer developed)",
            "backend: llm-compressor or gptqmodel knows newer ones",
        )
    say(f"loading {kind} on {args.device}")
    return AutoAWQForCausalLM.from_pretrained(
        str(args.source),
        torch_dtype=torch.float32 if args.device == "cpu" else "auto",
        device_map=args.device if args.device == "cpu" else None,
        trust_remote_code=args.trust_remote_code,
    )


def counted(layers: range, desc: str = "", **_: Any) -> Iterator[int]:
    """In place of the bar that AutoAWQ draws over the layers: tells them as progress."""
    for layer in layers:
        progress("quantise", layer, len(layers), "layer")
        yield layer
    progress("quantise", len(layers), len(layers), "layer")


def restoring(kind: Any) -> Any:
    """AutoAWQ's quantizer, with a search that leaves the weights as it found them on a CPU too.

    It keeps them by `.cpu()`, which on a CPU is no copy: the first scales that it tries stay multiplied in, and what
    comes out is another model."""

    class Restoring(kind):  # type: ignore[misc]
        def _compute_best_scale(
            self, x: Any, w_mean: Any, x_mean: Any, module2inspect: Any, *rest: Any, **named: Any
        ) -> Any:
            shared = module2inspect.state_dict
            module2inspect.state_dict = lambda: {name: value.clone() for name, value in shared().items()}
            try:
                return super()._compute_best_scale(x, w_mean, x_mean, module2inspect, *rest, **named)
            finally:
                del module2inspect.state_dict

    return Restoring


def settle(model: Any, dtype: Any) -> None:
    """Every number of the model in `dtype`, packed weights and their 16-bit scales apart: kernels fix those."""
    import torch

    for module in model.modules():
        packed = hasattr(module, "qweight")
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(torch.float16 if packed else dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description="AWQ with AutoAWQ.")
    parser.add_argument("options", type=Path)
    for name in ("source", "texts", "out", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--chunk-mib", type=int, default=1024)
    parser.add_argument("--trust-remote-code", action="store_true")
    args = parser.parse_args()
    options: dict[str, Any] = json.loads(args.options.read_text(encoding="utf-8"))
    args.source = for_older(args.source, args.scratch)
    quantise(args, options)
    become_reload(args, "autoawq" if options["claim"] else "transformers")


def quantise(args: argparse.Namespace, options: dict[str, Any]) -> None:
    check_source(args.source, options["q_group_size"], CLIP if options["apply_clip"] else PACK)
    texts = read_texts(args.texts)
    progress("load", 0, 1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import torch
    import transformers
    from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
    from awq.quantize import quantizer

    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        str(args.source), trust_remote_code=args.trust_remote_code
    )
    length, samples = options["max_calib_seq_len"], options["max_calib_samples"]
    transformers.utils.logging.set_verbosity_error()  # a text longer than the model's context is told by `blocks`
    rows = blocks(texts, tokenizer.encode, samples, length)
    wrapped = load(args, AWQ_CAUSAL_LM_MODEL_MAP)
    pack = bool(options["claim"])
    kept = list(options["modules_to_not_convert"])
    if wrapped.model_type.endswith("_moe") and "mlp.gate" not in kept:
        kept.append("mlp.gate")  # the router: no server reads it packed
    config = {
        "zero_point": options["zero_point"],
        "q_group_size": options["q_group_size"],
        "w_bit": options["w_bit"],
        "version": options["version"],
        "modules_to_not_convert": kept or None,
    }
    quantizer.tqdm = counted
    wrapped.quantize(
        tokenizer,
        quant_config=config,
        calib_data=rows,
        duo_scaling=options["duo_scaling"],
        apply_clip=options["apply_clip"],
        export_compatible=not pack,
        n_parallel_calib_samples=args.parallel,
        max_calib_samples=samples,
        max_calib_seq_len=length,
        max_chunk_memory=args.chunk_mib << 20,
        quantizer_cls=restoring(quantizer.AwqQuantizer),
    )
    write(wrapped, tokenizer, args, options, pack)


def write(
    wrapped: Any, tokenizer: Any, args: argparse.Namespace, options: dict[str, Any], pack: bool
) -> None:
    """The checkpoint, in the number format that the step says; without a word of quantisation where only scaled."""
    import torch

    progress("write", 0, 1)
    source = next(iter(linears(tensors_of(args.source)).values())).dtype
    name = options["torch_dtype"] if options["torch_dtype"] != "auto" else KINDS.get(source, "bfloat16")
    dtype = getattr(torch, name)
    settle(wrapped.model, dtype)
    wrapped.model.config.torch_dtype = dtype
    wrapped.model.config.use_cache = True  # AutoAWQ loads without it, and would say so to every reader
    # AutoAWQ makes sampling out of a greedy configuration so that it can be saved; the source's own file is kept.
    wrapped.save_quantized(str(args.out), shard_size=options["shard_size"])
    tokenizer.save_pretrained(str(args.out))
    if not pack:
        file = args.out / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop(
            "quantization_config", None
        )  # the converter to GGUF refuses a checkpoint that says quantised
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    carry_over(args.source, args.out)
    readable(args.out)
    progress("write", 1, 1)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    guarded(main)
