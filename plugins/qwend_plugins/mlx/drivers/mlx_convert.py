"""Make a model for MLX with mlx-lm. Runs inside the image; imports nothing of qwend.

    python mlx_convert.py --model DIR --out DIR --quantize --q-bits 4 --q-group-size 64 [--quant-predicate mixed_3_6]

mlx-lm refuses a folder that exists, and the output folder does: it writes beside, and the files are moved.
Nothing is uploaded: there is no option for it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from mlx_start import loading, report, run

_PART = ".mlx-part"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a model for MLX.")
    add = parser.add_argument
    add("--model", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--quantize", action="store_true")
    add("--q-group-size", type=int)
    add("--q-bits", type=int)
    add("--q-mode", default="affine")
    add("--quant-predicate")
    add("--dtype")
    add("--dequantize", action="store_true")
    add("--trust-remote-code", action="store_true")
    return parser.parse_args(argv)


def convert(args: argparse.Namespace) -> None:
    """Convert, move the result into place, and tell what it has become."""
    from mlx_lm import convert as tool

    if args.quant_predicate and args.q_group_size is None:
        args.q_group_size = 64  # mlx-lm hands None on to each layer
    part = args.out / _PART
    report(progress={"phase": "convert", "done": 0, "total": 1})
    with loading():
        tool(
            str(args.model),
            str(part),
            quantize=args.quantize,
            q_group_size=args.q_group_size,
            q_bits=args.q_bits,
            q_mode=args.q_mode,
            dtype=args.dtype,
            dequantize=args.dequantize,
            quant_predicate=args.quant_predicate,
            trust_remote_code=args.trust_remote_code,
        )
    (part / "README.md").unlink(missing_ok=True)  # a card for a hub, with the path of this folder in it
    for path in sorted(part.iterdir()):
        path.rename(args.out / path.name)
    part.rmdir()
    keep_template(args.model, args.out)
    for key, value in facts(args.out, args.quantize).items():
        report(fact={key: value})
    report(progress={"phase": "convert", "done": 1, "total": 1})


def keep_template(model: Path, out: Path) -> None:
    """The chat template, if the tokenizer that was written has lost it."""
    kept = out / "chat_template.jinja"
    source = model / "chat_template.jinja"
    if source.is_file() and not kept.exists():
        said = json.loads((out / "tokenizer_config.json").read_bytes())
        if not said.get("chat_template"):
            kept.write_bytes(source.read_bytes())


def facts(out: Path, quantised: bool) -> dict[str, Any]:
    """Size and bits per weight of what was written, from its headers."""
    size = weights = 0
    for path in out.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                size += end - begin
    index = out / "model.safetensors.index.json"
    if index.is_file():
        weights = int((json.loads(index.read_bytes()).get("metadata") or {}).get("total_parameters") or 0)
    found: dict[str, Any] = {"bytes": size}
    if weights:
        found |= {"parameters": weights, "bits": round(8 * size / weights, 2)}
    if quantised:
        found["dtype"] = None
    return {name: value for name, value in found.items() if value is not None}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    run("mlx_convert", lambda: convert(args))


if __name__ == "__main__":
    main()
