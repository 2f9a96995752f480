"""What a training takes: weights, gradients, the optimiser's state, activations. Estimates, from below.

AdamW keeps two numbers for each trained one; mixed precision trains 32-bit copies. With gradient checkpointing one
hidden state per layer is kept, and the logits of a batch, which for a vocabulary of 152,000 outweigh all of that.
"""

from __future__ import annotations

from qwend.plugin import Facts, Resources, StepView, human
from qwend_plugins.llama_factory.train_params import TrainParams

_PROGRAM = 3 * 1024**3 // 2
"""torch, transformers, datasets and LLaMA-Factory imported (measured on a CPU: 1.2 GiB)."""
_STATE = 16
"""Bytes for each trained number: a 32-bit copy, its gradient, two moments."""


def resources(step: StepView, base: Facts) -> Resources:
    """Peak memory and disk; None where the shape of the base is not known."""
    params = step.params
    assert isinstance(params, TrainParams)
    adapter = adapter_bytes(base, params)
    disk = base.bytes if params.finetuning_type != "lora" else adapter
    saved = None if disk is None else disk * (1 + 3 * (params.save_total_limit or 3))
    if base.parameters is None:
        return Resources(disk=saved, heavy=True)
    cpu = step.flavour == "cpu"
    width = 4.0 if cpu else (params.quantization_bit or 16) / 8
    weights = int(base.parameters * width)
    trained = base.parameters if params.finetuning_type != "lora" else (adapter or 0) // 4
    state = trained * _STATE
    active = _activations(base, params)
    note = f"weights {human(weights)}, optimiser {human(state)}, activations about {human(active)}"
    total = weights + state + active
    if cpu:
        return Resources(memory=total + _PROGRAM, disk=saved, heavy=True, note=note)
    shards = max(1, step.gpus) if params.deepspeed in ("z3", "z3_offload") else 1
    card = (weights + state) // shards + active
    return Resources(memory=_PROGRAM * max(1, step.gpus), gpu_memory=card, disk=saved, heavy=True, note=note)


def adapter_bytes(base: Facts, params: TrainParams) -> int | None:
    """Size of the adapter: rank times the width of both sides of each adapted matrix, 4 bytes a number."""
    if None in (base.hidden, base.layers):
        return None
    hidden, layers = base.hidden or 0, base.layers or 0
    wide = 4 * hidden  # an MLP is about so much wider
    matrices = {"q_proj": 2 * hidden, "k_proj": 2 * hidden, "v_proj": 2 * hidden, "o_proj": 2 * hidden}
    matrices |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), hidden + wide)
    chosen = (
        matrices
        if "all" in params.lora_target
        else {k: v for k, v in matrices.items() if k in params.lora_target}
    )
    return 4 * params.lora_rank * layers * sum(chosen.values())


def _activations(base: Facts, params: TrainParams) -> int:
    tokens = params.per_device_train_batch_size * params.cutoff_len
    kept = 34 if params.disable_gradient_checkpointing else 2
    states = tokens * (base.hidden or 0) * (base.layers or 0) * kept
    logits = tokens * (base.vocabulary or 0) * 4
    return states + logits
