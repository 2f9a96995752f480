"""Parameters of `llama-factory/train`, by LLaMA-Factory's own names."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from qwend.plugin import Params, flag, reference


def names(value: object) -> object:
    """One name, a list of names, or names with commas between, as its own configuration files write them."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(names, json_schema_input_type=str | list[str])]
Chances = Annotated[tuple[float, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]


class TrainParams(Params):
    """What is common; the rest goes through `arguments`."""

    stage: Literal["sft", "pt", "dpo", "kto", "rm", "ppo"] = flag(
        "stage", "sft",
        description="learn answers (sft), text (pt), preferences (dpo, kto), a reward (rm), by a reward (ppo)",
    )  # fmt: skip
    finetuning_type: Literal["lora", "full", "freeze"] = flag(
        "finetuning_type", "lora", description="an adapter, every weight, or the last layers"
    )

    dataset: Names = reference(
        "dataset/sft",
        "dataset/text",
        default=...,
        description="data sets: alpaca, sharegpt, messages; text for pt",
    )
    eval_dataset: Names = reference(
        "dataset/sft", "dataset/text", default=(), description="data sets that are only evaluated on"
    )
    template: str | None = flag(
        "template",
        None,
        description="chat template by LLaMA-Factory's name; left out: the one of the architecture",
    )
    cutoff_len: int = flag(
        "cutoff_len", 2048, description="tokens of a row; what is longer is cut", ge=8, le=2**21
    )
    max_samples: int | None = flag("max_samples", None, description="rows of each data set, at most", ge=1)
    val_size: float = flag(
        "val_size", 0.0, description="held back for evaluation: a share below 1, or a number of rows", ge=0
    )
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = flag(
        "mix_strategy", "concat", description="several data sets: one after the other, or interleaved"
    )
    interleave_probs: Chances = flag(
        "interleave_probs", (), description="weight of each data set while interleaving; they add up to 1"
    )
    packing: bool | None = flag(
        "packing", None, description="several rows in one sequence; left out: in pt only"
    )
    neat_packing: bool = flag("neat_packing", False, description="packed rows do not see each other (sft)")
    train_on_prompt: bool = flag("train_on_prompt", False, description="learn the questions too (sft)")
    mask_history: bool = flag("mask_history", False, description="learn the last answer only (sft)")
    enable_thinking: bool = flag("enable_thinking", True, description="thinking mode of reasoning templates")
    preprocessing_num_workers: int | None = flag(
        "preprocessing_num_workers", None, description="processes that tokenise", fingerprint=False, ge=1
    )

    lora_target: Names = flag(
        "lora_target", ("all",), description="modules with an adapter: q_proj, v_proj …, or all"
    )
    lora_rank: int = flag("lora_rank", 8, description="rank of the adapter", ge=1, le=4096)
    lora_alpha: int | None = flag("lora_alpha", None, description="its scale; left out: twice the rank", ge=1)
    lora_dropout: float = flag("lora_dropout", 0.0, description="dropout on the adapter", ge=0, lt=1)
    loraplus_lr_ratio: float | None = flag(
        "loraplus_lr_ratio", None, description="LoRA+: rate of B over that of A", gt=0
    )
    use_rslora: bool = flag("use_rslora", False, description="scale by the root of the rank")
    use_dora: bool = flag("use_dora", False, description="weight-decomposed LoRA")
    pissa_init: bool = flag(
        "pissa_init", False, description="begin from the principal components of the weights"
    )
    additional_target: Names = flag(
        "additional_target", (), description="modules that are trained whole and saved too"
    )
    freeze_trainable_layers: int = flag(
        "freeze_trainable_layers",
        2,
        description="freeze: so many last layers are trained; negative: first ones",
    )
    freeze_trainable_modules: Names = flag(
        "freeze_trainable_modules", ("all",), description="freeze: their modules"
    )
    quantization_bit: Literal[4, 8] | None = flag(
        "quantization_bit",
        None,
        description="QLoRA: the base in 4 or 8 bit while training (bitsandbytes, CUDA)",
    )
    quantization_type: Literal["nf4", "fp4"] = flag("quantization_type", "nf4", description="format of 4 bit")
    double_quantization: bool = flag(
        "double_quantization", True, description="quantise the scales of 4 bit too"
    )

    pref_beta: float = flag(
        "pref_beta", 0.1, description="dpo, kto: how hard to stay near the reference", gt=0
    )
    pref_loss: Literal["sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"] = flag(
        "pref_loss", "sigmoid", description="dpo: the loss; orpo and simpo need no reference"
    )
    pref_ftx: float = flag("pref_ftx", 0.0, description="dpo: share of the supervised loss", ge=0)
    reward_model: str | None = reference(
        "adapter/lora", description="ppo: an adapter of stage rm, on the same base"
    )
    ref_model: str | None = reference(
        "model/safetensors", description="dpo, ppo: the reference; left out: the base"
    )

    learning_rate: float = flag("learning_rate", 5e-5, description="highest learning rate", gt=0, lt=1)
    num_train_epochs: float = flag("num_train_epochs", 3.0, description="times through the data", gt=0)
    max_steps: int = flag("max_steps", -1, description="steps, instead of epochs", ge=-1)
    per_device_train_batch_size: int = flag(
        "per_device_train_batch_size", 1, description="rows at once on a card", ge=1
    )
    per_device_eval_batch_size: int = flag(
        "per_device_eval_batch_size", 1, description="the same in evaluation", ge=1
    )
    gradient_accumulation_steps: int = flag(
        "gradient_accumulation_steps", 8, description="batches in one step", ge=1
    )
    lr_scheduler_type: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
        "inverse_sqrt", "cosine_with_min_lr", "warmup_stable_decay",
    ] = flag("lr_scheduler_type", "cosine", description="how the learning rate falls")  # fmt: skip
    warmup_ratio: float = flag(
        "warmup_ratio", 0.0, description="share of the steps in which it rises", ge=0, lt=1
    )
    warmup_steps: int | None = flag(
        "warmup_steps", None, description="the same in steps; goes before the ratio", ge=0
    )
    weight_decay: float = flag("weight_decay", 0.0, description="decay of the weights", ge=0)
    max_grad_norm: float = flag("max_grad_norm", 1.0, description="gradients are cut to this length", ge=0)
    optim: str = flag(
        "optim", "adamw_torch", description="optimiser by transformers' name", pattern=r"^[a-z0-9_]+$"
    )
    seed: int = flag("seed", 42, description="seed of shuffling and of the adapter", ge=0, lt=2**32)
    bf16: bool | None = flag("bf16", None, description="compute in bfloat16; left out: where every card can")
    fp16: bool = flag("fp16", False, description="compute in float16 (older cards)")
    pure_bf16: bool = flag("pure_bf16", False, description="weights and optimiser in bfloat16 too (CUDA)")
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2", "fa3"] = flag(
        "flash_attn",
        "auto",
        description="attention; fa2 takes an image with FlashAttention compiled, from compute capability 8.0",
    )
    disable_gradient_checkpointing: bool = flag(
        "disable_gradient_checkpointing", False, description="keep activations: faster, much more memory"
    )
    rope_scaling: Literal["linear", "dynamic", "yarn", "llama3"] | None = flag(
        "rope_scaling", None, description="how positions beyond the trained length are scaled"
    )

    logging_steps: int = flag("logging_steps", 5, description="steps between two figures of the loss", ge=1)
    save_strategy: Literal["steps", "epoch", "no"] = flag(
        "save_strategy", "steps", description="when to save a checkpoint"
    )
    save_steps: int = flag("save_steps", 500, description="steps between two checkpoints", ge=1)
    save_total_limit: int | None = flag(
        "save_total_limit", 3, description="checkpoints that are kept; null: all", ge=1
    )
    eval_strategy: Literal["no", "steps", "epoch"] = flag(
        "eval_strategy", "no", description="when to evaluate"
    )
    eval_steps: int | None = flag("eval_steps", None, description="steps between two evaluations", ge=1)
    plot_loss: bool = flag("plot_loss", True, description="draw the loss: training_loss.png in the artifact")
    report_to: Literal["tensorboard", "none"] = flag(
        "report_to", "tensorboard", description="TensorBoard's logs, in runs/ of the artifact"
    )
    keep_checkpoints: bool | None = Field(
        None, description="keep the weights of checkpoints in the artifact; left out: those of an adapter"
    )

    deepspeed: Literal["z0", "z1", "z2", "z3", "z2_offload", "z3_offload"] | dict[str, Any] | None = Field(
        None, description="ZeRO stage by name, or DeepSpeed's own configuration as a mapping"
    )
    deepspeed_config: str | None = reference("dataset/config", description="DeepSpeed's own JSON as a file")
    ddp_timeout: int = flag(
        "ddp_timeout",
        180_000_000,
        description="seconds that cards wait for each other",
        fingerprint=False,
        ge=1,
    )
    nnodes: int = Field(1, ge=1, le=1024, description="machines that train together (NNODES)")
    node_rank: int = Field(0, ge=0, description="which of them this is (NODE_RANK)")
    master_addr: str | None = Field(
        None, pattern=r"^[A-Za-z0-9.:_-]+$", description="address of the first one (MASTER_ADDR)"
    )
    master_port: int = Field(29500, ge=1, le=65535, description="its port (MASTER_PORT)")

    arguments: dict[str, Any] = Field(
        {}, description="any other argument of LLaMA-Factory, checked against its parser"
    )
