"""mlx/lora and mlx/fuse: what a plan says of them, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from qwend.plugin import Facts, Finding, Given, Host, InputRef, Join, Pin, StepView
from qwend_plugins.mlx.fuse import Fuse, FuseParams
from qwend_plugins.mlx.lora import Lora, LoraParams

MAC = Host("darwin", "arm64", 10, chip="Apple M4", os_version="macOS 15.1")
QWEN = Facts(
    architecture="qwen2", parameters=500_000_000, bytes=10**9, context=32768, hidden=896, layers=24,
    vocabulary=151936, bits=16.0,
)  # fmt: skip
PIN = Pin("hf:Qwen/Qwen2.5-0.5B@abc", "hf:Qwen/Qwen2.5-0.5B@abc", "model/safetensors")
BASE = Given("base", "model/safetensors", QWEN, pin=PIN)
SMALL = Given("small", "model/mlx", msgspec.structs.replace(QWEN, bits=4.5), lineage=(BASE,))
ROWS, TEXT = Given("rows", "dataset/sft", Facts(rows=50)), Given("text", "dataset/text", Facts())


def lora(model: Given = BASE, data: Given = ROWS, valid: Given | None = None, **params: Any) -> StepView:
    given: dict[str, tuple[Given, ...]] = {"dataset": (data,), **({"valid": (valid,)} if valid else {})}
    told = LoraParams(dataset=data.name, valid=valid.name if valid else None, **params)
    return StepView("adapter", "r", told, inputs=(model,), given=given, flavour="apple")


def fuse(adapter: Given, base: Given | None = None, **params: Any) -> StepView:
    told = FuseParams(base=base.name if base else None, **params)
    given: dict[str, tuple[Given, ...]] = {"base": (base,)} if base else {}
    return StepView("merged", "r", told, inputs=(adapter,), given=given, flavour="apple")


def adapter(*lineage: Given) -> Given:
    return Given("adapter", "adapter/lora", Facts(base="Qwen/Qwen2.5-0.5B"), lineage=lineage)


def keys(findings: Any) -> list[str | None]:
    return [one.key for one in findings]


def test_an_adapter_names_the_hubs_model_that_it_belongs_to_through_every_conversion() -> None:
    assert Lora().product(lora()).facts.base == "Qwen/Qwen2.5-0.5B"
    made = Lora().product(lora(SMALL))
    assert (made.type, made.facts.base) == ("adapter/lora", "Qwen/Qwen2.5-0.5B")
    assert made.facts.bytes == 4 * 16 * 8 * (8 * 896 + 3 * 4 * 896)


def test_mlx_is_told_every_argument_by_its_own_name_and_where_rows_lie() -> None:
    step = lora(valid=ROWS, lora_parameters={"rank": 4, "keys": ("self_attn.q_proj",)}, iters=7)
    launch = Lora().launch(step, MAC)
    (told,) = (json.loads(one.content) for one in launch.files if one.name == "arguments.json")
    assert told["iters"] == 7
    assert told["lora_parameters"] == {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    assert told["lr_schedule"] is None
    assert Join(("rows=", InputRef("rows"))) in launch.argv
    assert launch.argv.count("--valid") == 1
    assert "--stage" not in launch.argv
    assert "--stage" in Lora().launch(lora(data=TEXT), MAC).argv
    assert launch.resumable
    assert not launch.network
    assert set(Lora().metrics(step)) == {"train_loss", "val_loss", "tokens_per_second", "tokens"}


def test_memory_grows_with_the_rows_of_a_step_and_shrinks_with_checkpoints_in_it() -> None:
    def need(**params: Any) -> int:
        return Lora().launch(lora(**params), MAC).resources.memory or 0

    one, four, less = need(batch_size=1), need(batch_size=4), need(batch_size=4, grad_checkpoint=True)
    assert QWEN.bytes is not None
    assert QWEN.bytes < one < less < four


@pytest.mark.parametrize(
    ("step", "key"),
    [
        (lora(valid=TEXT), "with.valid"),
        (lora(data=TEXT, mask_prompt=True), "with.mask_prompt"),
        (lora(num_layers=0), "with.num_layers"),
        (lora(max_seq_length=99_999), "with.max_seq_length"),
        (msgspec.structs.replace(lora(), extra_args=("--wandb",)), "extra_args"),
    ],
)
def test_what_cannot_be_trained_is_told_at_its_key(step: StepView, key: str) -> None:
    assert keys(Lora().check(step, MAC)) == [key]


def test_a_good_step_has_nothing_said_of_it() -> None:
    assert list(Lora().check(lora(), MAC)) == []
    assert list(Fuse().check(fuse(adapter(BASE, ROWS)), MAC)) == []


@pytest.mark.parametrize(
    "params",
    [
        {"lora_parameters": {"rank": 0}},
        {"lora_parameters": {"alpha": 16}},
        {"lr_schedule": {"name": "warm", "arguments": [1, 2]}},
        {"fine_tune_type": "full"},
    ],
)
def test_a_parameter_that_mlx_lacks_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoraParams(dataset="rows", **params)


def test_what_is_merged_keeps_its_form_and_a_plain_one_is_a_checkpoint_for_everybody() -> None:
    assert Fuse().product(fuse(adapter(BASE))).type == "model/safetensors"
    small = Fuse().product(fuse(adapter(SMALL)))
    assert (small.type, small.facts.bits) == ("model/mlx", 4.5)
    assert Fuse().product(fuse(adapter(SMALL), dequantize=True)).type == "model/safetensors"
    assert InputRef("small") in Fuse().launch(fuse(adapter(SMALL)), MAC).argv
    assert (
        InputRef("base") in Fuse().launch(fuse(adapter(SMALL), BASE), MAC).argv
    )  # what was quantised fits, too


def test_an_adapter_of_another_model_or_of_none_is_told() -> None:
    def findings(step: StepView) -> list[Finding]:
        return list(Fuse().check(step, MAC))

    other = Given("other", "model/safetensors", QWEN, pin=msgspec.structs.replace(PIN, identity="hf:o@1"))
    assert keys(findings(fuse(adapter(BASE), other))) == ["with.base"]
    (unknown,) = findings(fuse(adapter()))
    assert (unknown.key, "Qwen/Qwen2.5-0.5B" in unknown.message) == ("from", True)
    assert keys(findings(fuse(adapter(BASE), dequantize=True))) == ["with.dequantize"]
