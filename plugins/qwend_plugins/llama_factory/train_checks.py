"""What can be known to go wrong with a training before it begins."""

from __future__ import annotations

from collections.abc import Iterator

from qwend.plugin import Finding, Host, StepView
from qwend_plugins.llama_factory import common
from qwend_plugins.llama_factory.train_params import TrainParams

OURS = (
    "model_name_or_path", "adapter_name_or_path", "output_dir", "overwrite_output_dir", "resume_from_checkpoint",
    "dataset_dir", "do_train", "do_eval", "do_predict", "predict_with_generate", "disable_tqdm", "use_cpu",
    "trust_remote_code", "include_num_input_tokens_seen", "logging_nan_inf_filter", "logging_dir", "tokenized_path",
    "cache_dir", "offload_folder", "export_dir", "push_to_hub", "hub_model_id", "hub_token", "hf_hub_token",
    "ms_hub_token", "om_hub_token", "local_rank", "reward_model_type", "use_ray", "streaming",
)  # fmt: skip
"""Arguments that say where things are, or what this engine is; the recipe says it."""


def findings(step: StepView, host: Host) -> Iterator[Finding]:
    """Everything that is wrong or doubtful, with its key."""
    params, given = step.params, step.inputs[0]
    assert isinstance(params, TrainParams)
    base = common.base_of(given)
    if given.type == "adapter/lora":
        if base is None:
            yield Finding(
                f"{given.name} comes from elsewhere: its base is not known",
                "from",
                "merge it with llama-factory/export (with: {base: …}) and train the merged model",
            )
        if params.finetuning_type != "lora":
            yield Finding("an adapter is trained on as an adapter", "with.finetuning_type", "merge it first")
    yield from common.template_findings(params.template, base or given)
    yield from _data(step, params)
    yield from _methods(params)
    yield from _device(step, params, host)
    yield from _several(step, params)
    known = (*common.KNOWN["train"], *common.KNOWN["infer"])
    yield from common.more_findings(params, step.extra_args, known, OURS)
    trained = (base or given).facts.context
    if trained is not None and params.cutoff_len > trained and params.rope_scaling is None:
        yield Finding(
            f"cutoff_len is beyond what the model was trained for ({trained})",
            "with.cutoff_len",
            "rope_scaling: yarn stretches it",
            level="warning",
        )


def _data(step: StepView, params: TrainParams) -> Iterator[Finding]:
    wanted = "dataset/text" if params.stage == "pt" else "dataset/sft"
    for field in ("dataset", "eval_dataset"):
        for one in step.given.get(field, ()):
            if one.type != wanted:
                hint = (
                    "stage: pt learns from text"
                    if one.type == "dataset/text"
                    else f"say type: {wanted} at the data set"
                )
                yield Finding(
                    f"stage {params.stage} needs {wanted}; {one.name} is {one.type}", f"with.{field}", hint
                )
    if params.eval_dataset and params.val_size:
        yield Finding("say either val_size or eval_dataset", "with.val_size")
    held = bool(params.eval_dataset or params.val_size)
    if params.eval_strategy != "no" and not held:
        yield Finding(
            "there is nothing to evaluate on", "with.eval_strategy", "say val_size: 0.1, or eval_dataset"
        )
    if params.eval_strategy == "no" and params.eval_steps is not None:
        yield Finding("eval_steps needs eval_strategy: steps", "with.eval_steps")
    if params.stage == "ppo" and held:
        yield Finding(
            "ppo does not evaluate", "with.eval_dataset" if params.eval_dataset else "with.val_size"
        )
    count = len(params.dataset)
    if params.interleave_probs:
        if params.mix_strategy == "concat":
            yield Finding(
                "weights need an interleaving mix_strategy", "with.interleave_probs", "interleave_under"
            )
        if len(params.interleave_probs) != count:
            said = f"{len(params.interleave_probs)} weights for {count} data sets"
            yield Finding(said, "with.interleave_probs")
        elif abs(sum(params.interleave_probs) - 1) > 1e-6 or min(params.interleave_probs) < 0:
            yield Finding("weights should add up to 1", "with.interleave_probs")


def _methods(params: TrainParams) -> Iterator[Finding]:
    kind = params.finetuning_type
    if kind != "lora":
        for field in ("quantization_bit", "loraplus_lr_ratio", "use_rslora", "use_dora", "pissa_init"):
            if getattr(params, field):
                yield Finding(f"{field} is for finetuning_type: lora", f"with.{field}")
    if params.stage != "sft":
        for field in ("neat_packing", "train_on_prompt", "mask_history"):
            if getattr(params, field):
                yield Finding(f"{field} is for stage: sft", f"with.{field}")
    if params.train_on_prompt and params.mask_history:
        yield Finding("mask_history and train_on_prompt exclude each other", "with.mask_history")
    if params.stage == "ppo" and params.reward_model is None:
        yield Finding("ppo needs a reward_model", "with.stage", "train one with stage: rm, and name its step")
    if params.stage != "ppo" and params.reward_model is not None:
        yield Finding("reward_model is for stage: ppo", "with.reward_model")
    if params.stage == "ppo" and kind != "lora":
        yield Finding(
            "ppo with a reward adapter trains an adapter", "with.finetuning_type", "finetuning_type: lora"
        )
    if params.pissa_init and (params.stage in ("ppo", "kto") or params.quantization_bit):
        yield Finding("pissa_init goes neither with this stage nor with quantization_bit", "with.pissa_init")
    if params.fp16 and params.bf16:
        yield Finding("compute in one of both formats", "with.fp16")
    if params.stage == "ppo" or (params.stage == "rm" and kind != "lora"):
        yield Finding(
            f"stage {params.stage} cannot go on from a checkpoint: killed, it begins anew", level="warning"
        )


def _device(step: StepView, params: TrainParams, host: Host) -> Iterator[Finding]:
    yield from common.flash_findings(step, host)
    if step.flavour != "cpu":
        old = [gpu.name for gpu in host.gpus if gpu.capability is not None and gpu.capability < (8, 0)]
        if old and (params.bf16 or params.pure_bf16):
            key = "with.bf16" if params.bf16 else "with.pure_bf16"
            yield Finding(f"{old[0]} cannot compute in bfloat16", key, "fp16: true")
        return
    if params.pure_bf16:
        yield Finding("pure_bf16 needs a card", "with.pure_bf16", "bf16: true computes in bfloat16 on a CPU")
    left = {
        "quantization_bit": "the base stays in 16 or 32 bit: bitsandbytes needs a card",
        "deepspeed": "DeepSpeed is left out: this step runs on the CPU",
        "deepspeed_config": "DeepSpeed is left out: this step runs on the CPU",
        "fp16": "float16 is left out: a CPU computes without it",
    }
    for field, said in left.items():
        if getattr(params, field):
            yield Finding(said, f"with.{field}", level="warning")
    if params.flash_attn in ("fa2", "fa3"):
        yield Finding("FlashAttention is left out: it needs a card", "with.flash_attn", level="warning")


def _several(step: StepView, params: TrainParams) -> Iterator[Finding]:
    if params.node_rank >= params.nnodes:
        yield Finding(f"node_rank counts from 0 to {params.nnodes - 1}", "with.node_rank")
    if params.nnodes > 1 and params.master_addr is None:
        yield Finding("several machines need the address of the first", "with.nnodes", "say master_addr")
    if params.nnodes > 1 and step.network != "egress":
        yield Finding(
            "machines that train together need the network", "with.nnodes", "say network: egress at the step"
        )
    if params.deepspeed is not None and params.deepspeed_config is not None:
        yield Finding("say either deepspeed or deepspeed_config", "with.deepspeed_config")
