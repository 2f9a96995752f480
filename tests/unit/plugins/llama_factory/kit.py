"""Steps of `llama-factory/train` as a compiler would hand them over."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from qwend.plugin import Facts, Given, Pin, StepView
from qwend.plugin.samples import FACTS
from qwend_plugins.llama_factory.train import Train

ENGINE = Train()


def model(facts: Facts = FACTS, ref: str = "hf:Qwen/Qwen2.5-0.5B-Instruct@abc") -> Given:
    return Given("base", "model/safetensors", facts, pin=Pin(ref, ref, "model/safetensors"))


def data(name: str, kind: str = "dataset/sft") -> Given:
    return Given(name, kind, Facts(rows=50))


def adapter(**params: Any) -> Given:
    return Given("before", "adapter/lora", Facts(), "llama-factory/train", params, (model(), data("old")))


def step(with_: dict[str, Any] | None = None, *, given: Given | None = None, **view: Any) -> StepView:
    said = {"dataset": "mine", **(with_ or {})}
    named = {field: said[field] for field in ("dataset", "eval_dataset") if field in said}
    kind = "dataset/text" if said.get("stage") == "pt" else "dataset/sft"
    sets: dict[str, tuple[Given, ...]] = {
        field: tuple(data(name, kind) for name in ([names] if isinstance(names, str) else names))
        for field, names in named.items()
    }
    more = {field: (one,) for field, one in view.pop("given_", {}).items()}
    made = StepView(
        name="train",
        recipe="recipe",
        params=ENGINE.params.model_validate_json(json.dumps(said)),
        inputs=(given or model(),),
        given={**sets, **more},
    )
    return msgspec.structs.replace(made, **view)


THE_SCRIPT = {
    "lora_target": ["q_proj", "v_proj"], "lora_rank": 8, "lora_alpha": 16, "warmup_ratio": 0.1, "weight_decay": 0.1,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "ddp_timeout": 9000, "learning_rate": 5e-6,
    "lr_scheduler_type": "cosine", "logging_steps": 1, "cutoff_len": 4096, "save_steps": 1000, "num_train_epochs": 3,
    "plot_loss": True, "eval_strategy": "steps", "eval_steps": 100, "val_size": 0.01, "template": "qwen",
    "per_device_eval_batch_size": 1, "bf16": True, "flash_attn": "fa2", "report_to": "tensorboard",
}  # fmt: skip
"""What people write into a shell script by hand."""
