"""The two ways to write a LoRA adapter down: PEFT's, which other engines read, and mlx-lm's. Pure but for files.

    PEFT     base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight   (r, in)     lora_B: (out, r)
    mlx-lm   model.layers.0.self_attn.q_proj.lora_a                           (in, r)     lora_b: (r, out)

Both add `scale` · B · A to a weight; PEFT writes the scale as lora_alpha / r. One folder may hold both, since PEFT
reads `adapter_model.safetensors`, mlx-lm `adapters.safetensors`, and of `adapter_config.json` each its own keys.
Sources: mlx-lm's `tuner/lora.py`, PEFT's `LoraConfig`.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

from mlx_start import DriverError

CONFIG = "adapter_config.json"
PEFT, MLX = "adapter_model.safetensors", "adapters.safetensors"
_HEAD = "base_model.model."
_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")


def peft_config(base: str, rank: int, scale: float, dropout: float, modules: list[str]) -> dict[str, Any]:
    """PEFT's configuration of an adapter on `modules` (full names), without what is its default."""
    alpha = scale * rank
    layers = sorted({int(found[1]) for name in modules if (found := _LAYER.fullmatch(name))})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": dropout,
        "target_modules": sorted({name.rpartition(".")[2] for name in modules}),
        "layers_to_transform": layers,
        "layers_pattern": "layers",
        "bias": "none",
        "inference_mode": True,
    }


def mlx_config(num_layers: int, rank: int, scale: float, dropout: float, keys: list[str]) -> dict[str, Any]:
    """What mlx-lm reads of a configuration."""
    parameters = {"rank": rank, "scale": scale, "dropout": dropout, "keys": sorted(keys)}
    return {"fine_tune_type": "lora", "num_layers": num_layers, "lora_parameters": parameters}


def to_peft(weights: dict[str, Any]) -> dict[str, Any]:
    """mlx-lm's arrays under PEFT's names, turned over. Raises DriverError for what PEFT cannot say."""
    found = {}
    for name, array in weights.items():
        module, _, leaf = name.rpartition(".")
        if leaf not in ("lora_a", "lora_b") or array.ndim != 2:
            raise DriverError(
                f"{name} cannot be written for other engines",
                "name linear layers under keys: experts have no form",
            )
        found[f"{_HEAD}{module}.lora_{leaf[-1].upper()}.weight"] = array.T
    return found


def from_peft(weights: dict[str, Any]) -> dict[str, Any]:
    """PEFT's arrays under mlx-lm's names, turned over. Raises DriverError for anything but LoRA of linear layers."""
    found = {}
    for name, array in weights.items():
        said = re.fullmatch(re.escape(_HEAD) + r"(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if said is None or array.ndim != 2:
            raise DriverError(
                f"the adapter holds {name}, which is no LoRA of a linear layer",
                "merge it with llama-factory/export",
            )
        found[f"{said[1]}.lora_{said[2].lower()}"] = array.T
    return found


def scale_of(config: dict[str, Any]) -> float:
    """What B · A is multiplied with. Raises DriverError for a kind of adapter that has another sum."""
    for key in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out"):
        if config.get(key):
            raise DriverError(
                f"the adapter was trained with {key}, which MLX does not know",
                "merge it with llama-factory/export",
            )
    if config.get("bias") not in (None, "none"):
        raise DriverError(
            "the adapter changes biases, which MLX does not know", "merge it with llama-factory/export"
        )
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError):
        raise DriverError(f"{CONFIG} says neither r nor lora_alpha", "is this an adapter of PEFT?") from None
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def write_adapter(source: Path, out: Path, base: str, num_layers: int, parameters: dict[str, Any]) -> int:
    """Both forms of what mlx-lm trained, and one configuration for both; bytes of PEFT's. Raises DriverError."""
    import mlx.core as mx

    weights = dict(mx.load(str(source)))
    rank, scale, dropout = (parameters[name] for name in ("rank", "scale", "dropout"))
    peft = to_peft(weights)
    modules = sorted({name.rpartition(".")[0] for name in weights})
    config = peft_config(base, rank, scale, dropout, modules)
    config |= mlx_config(num_layers, rank, scale, dropout, parameters["keys"])
    shutil.copyfile(source, out / MLX)
    mx.save_safetensors(str(out / PEFT), peft, metadata={"format": "pt"})
    (out / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return (out / PEFT).stat().st_size


def for_mlx(folder: Path, scratch: Path) -> Path:
    """A folder that mlx-lm reads: the adapter's own if it can, else one made of PEFT's files in `scratch`."""
    config = read_config(folder)
    if "lora_parameters" in config and (folder / MLX).is_file():
        return folder
    if not (folder / PEFT).is_file():
        raise DriverError(f"the adapter holds neither {MLX} nor {PEFT}", "pickled adapters are not read")
    import mlx.core as mx

    scale = scale_of(config)
    weights = from_peft(dict(mx.load(str(folder / PEFT))))
    keys = sorted({found[2] for name in weights if (found := _LAYER.fullmatch(name.rpartition(".")[0]))})
    if not keys:
        raise DriverError("the adapter changes no layer")
    scratch.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(scratch / MLX), weights)
    made = mlx_config(
        -1, int(config["r"]), scale, 0.0, keys
    )  # layers without weights get zeros: they stay the same
    (scratch / CONFIG).write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return scratch


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration. Raises DriverError."""
    try:
        value = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise DriverError(
            f"{CONFIG} of the adapter cannot be read: {error}", "fetch or train it again"
        ) from None
    if not isinstance(value, dict):
        raise DriverError(f"{CONFIG} of the adapter is no JSON object", "fetch or train it again")
    return value
