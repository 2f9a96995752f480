"""Merge an adapter into a model with mlx-lm. Runs inside the image; imports nothing of qwend.

    python mlx_fuse.py --model DIR --adapter DIR --out DIR --scratch DIR [--dequantize] [--trust-remote-code]

The adapter is mlx-lm's own, or PEFT's. A quantised layer that is merged is quantised again as it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from mlx_adapter import for_mlx
from mlx_convert import facts, keep_template
from mlx_start import DriverError, loading, report, run


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Merge an adapter into a model with mlx-lm.")
    add = parser.add_argument
    add("--model", type=Path, required=True)
    add("--adapter", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--scratch", type=Path, required=True)
    add("--dequantize", action="store_true")
    add("--trust-remote-code", action="store_true")
    return parser.parse_args(argv)


def fuse(args: argparse.Namespace) -> None:
    """Load the model with the adapter, merge, write. Raises DriverError where the two do not fit."""
    from mlx.utils import tree_unflatten
    from mlx_lm.utils import dequantize_model, load, save

    report(progress={"phase": "fuse", "done": 0, "total": 1})
    adapter = for_mlx(args.adapter, args.scratch / "adapter")
    settings = {"trust_remote_code": args.trust_remote_code}
    with loading():
        try:
            model, tokenizer, config = load(
                str(args.model),
                adapter_path=str(adapter),
                return_config=True,
                tokenizer_config=dict(settings),
                **settings,
            )
        except ValueError as error:
            said = " ".join(" ".join(str(error).replace(str(adapter), "the folder").splitlines()[:2]).split())
            raise DriverError(
                f"mlx-lm refuses the adapter: {said[:300]}",
                "is this the model that the adapter was trained on?",
            ) from None
    merged = [
        (name, one.fuse(dequantize=args.dequantize))
        for name, one in model.named_modules()
        if hasattr(one, "fuse")
    ]
    if not merged:
        raise DriverError("the adapter changes no layer of the model")
    model.update_modules(tree_unflatten(merged))
    if args.dequantize:
        model = dequantize_model(model)
        for key in ("quantization", "quantization_config"):
            config.pop(key, None)
    save(args.out, args.model, model, tokenizer, config, donate_model=False)
    (args.out / "README.md").unlink(
        missing_ok=True
    )  # a card for a hub, with the path of the base's folder in it
    keep_template(args.model, args.out)
    report(metric={"name": "merged_layers", "value": len(merged)})
    for key, value in facts(args.out, "quantization" in config).items():
        report(fact={key: value})
    report(progress={"phase": "fuse", "done": 1, "total": 1})


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    run("mlx_fuse", lambda: fuse(args))


if __name__ == "__main__":
    main()
