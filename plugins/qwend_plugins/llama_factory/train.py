"""`llama-factory/train`: a model learns from conversations, texts or preferences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import msgspec

from qwend.plugin import (
    DriverRef,
    Facts,
    Finding,
    Given,
    Host,
    Image,
    ImageRef,
    InputRef,
    Join,
    Launch,
    OutputRef,
    Params,
    Product,
    ScratchRef,
    StepView,
    Word,
    driver,
)
from qwend_plugins.checkpoints import both_ways
from qwend_plugins.llama_factory import common, train_memory
from qwend_plugins.llama_factory.deepspeed import configuration
from qwend_plugins.llama_factory.train_checks import findings
from qwend_plugins.llama_factory.train_params import TrainParams

_LORA = (
    "lora_target", "lora_rank", "lora_alpha", "lora_dropout", "loraplus_lr_ratio", "use_rslora", "use_dora",
    "pissa_init", "quantization_bit", "quantization_type", "double_quantization",
)  # fmt: skip
_FREEZE = ("freeze_trainable_layers", "freeze_trainable_modules")
_PREFERENCE = ("pref_beta", "pref_loss", "pref_ftx")
_DRIVERS = (
    "lf_report",
    "lf_files",
    "lf_rows",
    "lf_data",
    "lf_stages",
    "lf_checkpoints",
    "lf_tensors",
    "lf_watch",
    "lf_finish",
)


class Train:
    """Fine-tunes. A killed run goes on from its last whole checkpoint."""

    name: ClassVar[str] = "llama-factory/train"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "fine-tunes a model: LoRA, QLoRA, full or freeze, by SFT, DPO, KTO and more"
    params: ClassVar[type[Params]] = TrainParams
    accepts: ClassVar[tuple[str, ...]] = ("model/safetensors", "adapter/lora")
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        return findings(step, host)

    def product(self, step: StepView) -> Product:
        params, given = _params(step), step.inputs[0]
        base = common.base_of(given) or given
        extra = {"stage": params.stage, "finetuning_type": params.finetuning_type}
        template = params.template or common.template_of(given)
        if params.node_rank > 0:
            return Product("report")
        if params.finetuning_type != "lora":
            return Product(
                "model/safetensors", msgspec.structs.replace(base.facts, template=template, extra=extra)
            )
        size = train_memory.adapter_bytes(base.facts, params)
        name = common.name_of(base)
        return Product("adapter/lora", Facts(base=name, bytes=size, template=template, extra=extra))

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step, _params(step).stage)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, given = _params(step), step.inputs[0]
        base = common.base_of(given) or given
        return Launch(
            argv=(
                ImageRef("bin/python"),
                DriverRef("lf_train.py"),
                "--arguments",
                DriverRef("arguments.json"),
                "--model",
                InputRef(base.name),
                *(("--adapter", InputRef(given.name)) if given.type == "adapter/lora" else ()),
                "--out",
                OutputRef(),
                "--scratch",
                ScratchRef(),
                *_data("--data", step.given.get("dataset", ())),
                *_data("--eval", step.given.get("eval_dataset", ())),
                *_one("--reward", step, "reward_model"),
                *_one("--reference", step, "ref_model"),
                *(_one("--config", step, "deepspeed_config") if step.flavour != "cpu" else ()),
                *_set(params),
            ),
            env=_environment(step),
            files=(
                driver(common.DRIVERS / "lf_train.py"),
                *common.drivers(*_DRIVERS),
                both_ways(),
                common.json_file("arguments.json", _told(step, host, base)),
            ),
            resumable=True,
            resources=train_memory.resources(step, base.facts),
            hints=common.HINTS,
            shm=8 * common.GIB if step.gpus > 1 else None,
        )


def _told(step: StepView, host: Host, base: Given) -> dict[str, Any]:
    """What the driver reads: LLaMA-Factory's arguments, and what goes beside them."""
    params = _params(step)
    keep = params.keep_checkpoints
    return {
        "arguments": arguments(step, host),
        "base": common.name_of(base),
        "template": params.template or common.template_of(step.inputs[0]),
        "keep_checkpoints": params.finetuning_type == "lora" if keep is None else keep,
        "extra": {"stage": params.stage, "finetuning_type": params.finetuning_type},
        "processes": max(1, step.gpus) * params.nnodes,  # counts: the batch of a step is so many times larger
    }


def arguments(step: StepView, host: Host) -> dict[str, Any]:
    """LLaMA-Factory's arguments, all but paths and what cannot change the output. What its parser refuses together
    (LoRA's with a full training) is left out where it has no meaning."""
    params = _params(step)
    leave = {name for name, _ in common.unrecorded(params)}
    leave |= {"bf16", "fp16"}
    leave |= set() if params.finetuning_type == "lora" else set(_LORA)
    leave |= set() if params.finetuning_type == "freeze" else set(_FREEZE)
    leave |= set() if params.stage in ("dpo", "kto") else set(_PREFERENCE)
    leave |= {"enable_thinking"} if params.stage == "pt" else set()
    if params.warmup_steps is not None:
        leave.add("warmup_ratio")
    if params.save_strategy != "steps":
        leave.add("save_steps")
    found = common.told(params, leave_out=leave)
    found = {name: value for name, value in found.items() if value != ""}
    found["template"] = params.template or common.template_of(step.inputs[0])
    found |= _precision(step, host)
    if step.flavour == "cpu":
        found["use_cpu"] = True
        for name in ("quantization_bit", "quantization_type", "double_quantization"):
            found.pop(name, None)
        if params.flash_attn in ("fa2", "fa3"):
            found["flash_attn"] = "auto"
    elif params.deepspeed is not None:
        said = params.deepspeed
        found["deepspeed"] = configuration(said) if isinstance(said, str) else said
    if params.reward_model is not None:
        found["reward_model_type"] = "lora"
    if step.trust_remote_code:
        found["trust_remote_code"] = True
    return found | common.extras(params, step.extra_args)


def _precision(step: StepView, host: Host) -> dict[str, Any]:
    """bfloat16 where every card of the machine has it, else float16; on a CPU no mixed precision unless told.

    Frozen layers stay in the checkpoint's format while trained ones become 32 bit: without mixed precision the two
    do not multiply.
    """
    params = _params(step)
    if step.flavour == "cpu":
        return {"bf16": params.finetuning_type == "freeze" if params.bf16 is None else params.bf16}
    if params.pure_bf16 or params.fp16 or params.bf16 is not None:
        return {"bf16": bool(params.bf16), "fp16": params.fp16}
    able = all(gpu.capability is not None and gpu.capability >= (8, 0) for gpu in host.gpus)
    return {"bf16": able, "fp16": not able}


def _environment(step: StepView) -> dict[str, Word]:
    """What torchrun and LLaMA-Factory read there; their names are the field's own."""
    params = _params(step)
    env = common.environment()
    if params.stage == "ppo":
        env["DISABLE_VERSION_CHECK"] = "1"  # of the older trl, which the other stages do not run with
    if params.report_to == "tensorboard":
        env["TENSORBOARD_LOGGING_DIR"] = OutputRef("runs")
    if step.gpus > 1:
        env["NPROC_PER_NODE"] = str(step.gpus)
    if params.nnodes > 1:
        env |= {
            "NNODES": str(params.nnodes),
            "NODE_RANK": str(params.node_rank),
            "MASTER_ADDR": params.master_addr or "127.0.0.1",
            "MASTER_PORT": str(params.master_port),
        }
    if (params.deepspeed is not None or params.deepspeed_config is not None) and step.flavour != "cpu":
        env["FORCE_TORCHRUN"] = "1"
    return env


def _data(option: str, given: Iterable[Given]) -> Iterator[Word]:
    for one in given:
        yield from (option, Join((f"{one.name}=", InputRef(one.name))))


def _one(option: str, step: StepView, field: str) -> Iterator[Word]:
    for one in step.given.get(field, ()):
        yield from (option, InputRef(one.name))


def _set(params: TrainParams) -> Iterator[Word]:
    for name, value in common.unrecorded(params):
        yield from ("--set", f"{name}={json.dumps(value)}")


def _params(step: StepView) -> TrainParams:
    assert isinstance(step.params, TrainParams)
    return step.params
