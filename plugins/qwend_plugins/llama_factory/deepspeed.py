"""DeepSpeed configurations by name: ZeRO 0 to 3, the later ones also with offloading to the host's memory.

Every figure that depends on the training is "auto": transformers fills it in from the training arguments. What the
stages mean: https://www.deepspeed.ai/docs/config-json/#zero-optimizations-for-fp16-training
"""

from __future__ import annotations

from typing import Any

_COMMON: dict[str, Any] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "fp16": {
        "enabled": "auto",
        "loss_scale": 0,
        "loss_scale_window": 1000,
        "initial_scale_power": 16,
        "hysteresis": 2,
        "min_loss_scale": 1,
    },
    "bf16": {"enabled": "auto"},
}
_REDUCE = {
    "allgather_partitions": True,
    "allgather_bucket_size": 500_000_000,
    "overlap_comm": False,
    "reduce_scatter": True,
    "reduce_bucket_size": 500_000_000,
    "contiguous_gradients": True,
    "round_robin_gradients": True,
}
_PARAMETERS = {
    "overlap_comm": False,
    "contiguous_gradients": True,
    "sub_group_size": 1_000_000_000,
    "reduce_bucket_size": "auto",
    "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": "auto",
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    # or the artifact would hold the shards of each card
    "stage3_gather_16bit_weights_on_model_save": True,
}
_HOST = {"device": "cpu", "pin_memory": True}


def configuration(name: str) -> dict[str, Any]:
    """DeepSpeed's configuration for `z0` … `z3`, `z2_offload`, `z3_offload`."""
    stage = int(name[1])
    zero: dict[str, Any] = {"stage": stage, **(_PARAMETERS if stage == 3 else _REDUCE)}
    if name.endswith("_offload"):
        zero["offload_optimizer"] = _HOST
        if stage == 3:
            zero["offload_param"] = _HOST
    return {**_COMMON, "zero_optimization": zero}
