"""Merge an adapter into its base with LLaMA-Factory, and prove that what was written is the base, changed.

    python lf_export.py --arguments arguments.json --model DIR --adapter DIR --out DIR

Exit codes: 0 done, 1 it failed (its reason is the last line).
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
import lf_infer
from both_ways import write_both_ways
from lf_report import Refused, explain, fail, metric, progress, report
from lf_tensors import Tensor, adapted, folder, size

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lf_infer.options(parser)
    parser.add_argument("--out", type=Path, required=True)
    said = parser.parse_args(argv)
    try:
        told = lf_infer.arguments(said)
        progress("merge")
        tuner: Any = importlib.import_module("llamafactory.train.tuner")
        tuner.export_model(
            {**told, "export_dir": str(said.out), "offload_folder": str(said.out.parent / "offload")}
        )
        progress("check")
        write_both_ways(said.out)
        check(said.out, said.model, said.adapter, told.get("infer_dtype", "auto"))
    except Refused as error:
        fail(*explain(error))
    except Exception as error:
        traceback.print_exc()
        fail(*explain(error))


def check(out: Path, model: Path, adapter: Path, dtype: str) -> None:
    """Same tensors as the base, in the promised format, and the adapted ones changed. Raises Refused."""
    merged, base = folder(out), folder(model)
    strange = sorted(name for name in merged if "lora_" in name or ".base_layer." in name)
    missing = sorted(set(base) - set(merged) - {"lm_head.weight"})  # tied embeddings are written once
    if strange or missing:
        raise Refused(
            f"the merged model {'still holds ' + strange[0] if strange else 'lacks ' + missing[0]}",
            "the merge did not work; report it with the log",
        )
    for name, tensor in merged.items():
        if name in base and base[name].shape != tensor.shape:
            raise Refused(f"{name} was {base[name].shape} and became {tensor.shape}")
    numbers, total, written = size(merged)
    found = _DTYPES.get(written, written.lower())
    if dtype not in ("auto", found):
        raise Refused(f"the weights were written as {found}, not as {dtype}")
    modules = adapted(folder(adapter, "adapter_model*.safetensors"))
    changed = sum(_changed(f"{module}.weight", merged, base) for module in modules)
    if not changed:
        raise Refused("the merged model equals its base: the adapter changes nothing", "train it for longer")
    print(
        f"{changed} of {len(modules)} adapted weights changed; {len(merged)} tensors as {found}", flush=True
    )
    metric("changed_weights", changed)
    config: dict[str, Any] = json.loads((out / "config.json").read_text(encoding="utf-8"))
    if config.pop("_name_or_path", None) is not None:  # a folder of this machine
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    report(
        fact={"parameters": numbers, "bytes": total, "dtype": found, "bits": round(8 * total / numbers, 3)}
    )


def _changed(name: str, merged: dict[str, Tensor], base: dict[str, Tensor]) -> bool:
    """Whether a weight differs from the base's. In another number format every weight does, which proves nothing:
    then it counts as changed, and the comparison is left to evaluation."""
    if name not in merged or name not in base:
        return False
    return merged[name].dtype != base[name].dtype or merged[name].data() != base[name].data()


if __name__ == "__main__":
    main(sys.argv[1:])
