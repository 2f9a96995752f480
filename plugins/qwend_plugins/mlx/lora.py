"""`mlx/lora`: an adapter is trained on Apple silicon."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

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
    LaunchFile,
    OutputRef,
    Params,
    Product,
    Resources,
    ScratchRef,
    StepView,
    Word,
    driver,
    reference,
)
from qwend_plugins.mlx import common

ARGUMENTS = "arguments.json"
_TOLD = (
    "optimizer", "mask_prompt", "num_layers", "batch_size", "iters", "val_batches", "learning_rate",
    "steps_per_report", "steps_per_eval", "grad_accumulation_steps", "save_every", "max_seq_length",
    "grad_checkpoint", "seed",
)  # fmt: skip


class LoraParameters(BaseModel):
    """What is added to each adapted weight: scale · B · A, of a rank."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    rank: int = Field(8, description="rank of the adapter", ge=1, le=1024)
    scale: float = Field(
        20.0, description="what the change is multiplied with (lora_alpha / rank of others)", gt=0
    )
    dropout: float = Field(0.0, description="share of inputs that is left out while training", ge=0, lt=1)
    keys: tuple[str, ...] | None = Field(
        None, description="linear layers of a block: [self_attn.q_proj, self_attn.v_proj]; left out: all"
    )


class Schedule(BaseModel):
    """How the learning rate moves, by the names of mlx.optimizers.schedulers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: Literal["cosine_decay", "exponential_decay", "linear_schedule", "step_decay"] = Field(
        description="its name in MLX"
    )
    arguments: tuple[float | int, ...] = Field(
        description="the scheduler's arguments: [1e-5, 1000] of cosine_decay", min_length=2, max_length=3
    )
    warmup: int = Field(0, description="steps that it rises from warmup_init first", ge=0)
    warmup_init: float = Field(0.0, description="learning rate of the first step", ge=0)


class LoraParams(Params):
    """Parameters of mlx_lm.lora, by its own names."""

    dataset: str = reference(
        "dataset/sft",
        "dataset/text",
        default=...,
        description="what is learned: alpaca, sharegpt, messages; or text",
    )
    valid: str | None = reference(
        "dataset/sft",
        "dataset/text",
        description="a data set that the loss is measured on, and that teaches nothing",
    )
    mask_prompt: bool = Field(False, description="learn answers only, not what is asked")
    num_layers: int = Field(16, description="how many of the last layers are adapted; -1: all", ge=-1)
    lora_parameters: LoraParameters | None = Field(
        None,
        description="{rank: 8, scale: 20.0, dropout: 0.0, keys: [self_attn.q_proj]}; left out: this, of all layers",
    )
    iters: int = Field(1000, description="steps", ge=1)
    batch_size: int = Field(4, description="rows of a step", ge=1)
    grad_accumulation_steps: int = Field(1, description="steps that are summed before weights change", ge=1)
    learning_rate: float = Field(1e-5, description="how far a step goes", gt=0, lt=1)
    lr_schedule: Schedule | None = Field(
        None, description="{name: cosine_decay, arguments: [1e-5, 1000], warmup: 100}; left out: it stays"
    )
    optimizer: Literal["adam", "adamw", "muon", "sgd", "adafactor"] = Field(
        "adam", description="how weights move"
    )
    max_seq_length: int = Field(2048, description="tokens of a row; what is longer is cut", ge=8)
    grad_checkpoint: bool = Field(False, description="less memory for more time")
    seed: int = Field(0, description="of the order of rows and of the first weights", ge=0)
    val_batches: int = Field(25, description="batches of valid that are looked at; -1: all", ge=-1)
    steps_per_eval: int = Field(200, description="steps between two looks at valid", ge=1)
    steps_per_report: int = Field(10, description="steps between two losses in the log", ge=1)
    save_every: int = Field(
        100, description="steps between checkpoints, which a killed run goes on from", ge=1
    )


class Lora:
    """Trains an adapter with MLX."""

    name: ClassVar[str] = "mlx/lora"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "trains a LoRA adapter with MLX, on a quantised model too (mlx_lm.lora)"
    params: ClassVar[type[Params]] = LoraParams
    accepts: ClassVar[tuple[str, ...]] = common.MODELS
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, facts = _params(step), step.inputs[0].facts
        yield from common.machine_findings(step, host)
        yield from common.model_findings(step)
        wanted = _dataset(step).type
        for one in step.given.get("valid", ()):
            if one.type != wanted:
                yield Finding(f"{one.name} is {one.type}, and what is learned is {wanted}", "with.valid")
        if params.mask_prompt and wanted == "dataset/text":
            yield Finding("a text has no prompt to leave out", "with.mask_prompt")
        if params.num_layers == 0:
            yield Finding("nothing would be trained", "with.num_layers", "-1 trains all layers")
        if facts.context is not None and params.max_seq_length > facts.context:
            yield Finding(
                f"max_seq_length is beyond what the model was trained for ({facts.context})",
                "with.max_seq_length",
                level="warning",
            )
        if step.extra_args:
            yield Finding("there are no further arguments: all of them are parameters", "extra_args")

    def product(self, step: StepView) -> Product:
        model = step.inputs[0]
        size = adapter_bytes(model.facts, _params(step))
        return Product("adapter/lora", Facts(base=common.name_of(model), bytes=size))

    def metrics(self, step: StepView) -> Iterable[str]:
        return (
            "train_loss",
            "tokens_per_second",
            "tokens",
            *(("val_loss",) if step.given.get("valid") else ()),
        )

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        text = _dataset(step).type == "dataset/text"
        return Launch(
            argv=(
                ImageRef("bin/python"),
                DriverRef("mlx_lora.py"),
                *_words(step),
                *(("--stage", "pt") if text else ()),
            ),
            env=common.environment(step),
            files=(
                *common.files("mlx_lora.py", "mlx_adapter.py", "mlx_rows.py", "mlx_start.py"),
                *(
                    driver(common.ROWS / name)
                    for name in ("lf_data.py", "lf_rows.py", "lf_files.py", "lf_report.py")
                ),
                LaunchFile(ARGUMENTS, json.dumps(_told(step), indent=1, sort_keys=True) + "\n"),
            ),
            resumable=True,
            resources=_resources(step),
            hints=common.HINTS,
        )


def adapter_bytes(facts: Facts, params: LoraParams) -> int | None:
    """What the adapter takes in 32 bits, in one form; None where the model's shape is unknown. Seven matrices of a
    dense block are adapted; that their sides are about hidden and three times hidden is near enough for a plan."""
    if facts.hidden is None or facts.layers is None:
        return None
    layers = facts.layers if params.num_layers == -1 else min(params.num_layers, facts.layers)
    sides = 8 * facts.hidden + 3 * 4 * facts.hidden  # four of attention, three of the feed-forward part
    return 4 * layers * low_rank(params).rank * sides


def low_rank(params: LoraParams) -> LoraParameters:
    """What is said of the adapter's form, mlx-lm's defaults filled in."""
    return params.lora_parameters or LoraParameters.model_validate({})


def _resources(step: StepView) -> Resources:
    """The weights, and what is kept of each layer for the way back: about 34 numbers of 16 bits for each of hidden and
    token, and the logits in 32 bits, twice. With grad_checkpoint one layer at a time."""
    params, facts = _params(step), step.inputs[0].facts
    adapter = adapter_bytes(facts, params)
    if None in (facts.bytes, facts.hidden, facts.layers) or adapter is None:
        return Resources(disk=adapter, heavy=True)
    assert facts.bytes is not None and facts.hidden is not None and facts.layers is not None
    tokens = params.batch_size * params.max_seq_length
    layers = 1 if params.grad_checkpoint else facts.layers
    kept = tokens * facts.hidden * 34 * 2 * layers + 8 * tokens * (facts.vocabulary or 0)
    return Resources(
        memory=facts.bytes + 4 * adapter + kept + common.LIBRARIES,
        disk=3 * adapter,
        heavy=True,
        note=f"weights, and what {params.batch_size} rows of {params.max_seq_length} tokens keep for the way back",
    )


def _told(step: StepView) -> dict[str, Any]:
    """mlx-lm's arguments by its own names, defaults included: an upgrade of it changes none of them."""
    params = _params(step)
    said = params.model_dump(mode="json", include={*_TOLD, "lr_schedule"})
    said["lora_parameters"] = low_rank(params).model_dump(mode="json")
    return {**said, "base": common.name_of(step.inputs[0])}


def _words(step: StepView) -> Iterator[Word]:
    yield from ("--model", InputRef(step.inputs[0].name))
    for option, field in (("--dataset", "dataset"), ("--valid", "valid")):
        for one in step.given.get(field, ()):
            yield from (option, Join((f"{one.name}=", InputRef(one.name))))
    yield from ("--arguments", DriverRef(ARGUMENTS), "--out", OutputRef(), "--scratch", ScratchRef())
    if step.trust_remote_code:
        yield "--trust-remote-code"


def _dataset(step: StepView) -> Given:
    (found,) = step.given["dataset"]
    return found


def _params(step: StepView) -> LoraParams:
    assert isinstance(step.params, LoraParams)
    return step.params
