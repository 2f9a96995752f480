"""`llama-factory/train`: what LLaMA-Factory is told, and what is found wrong before anything runs."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError
from tests.unit.plugins.llama_factory.kit import ENGINE, THE_SCRIPT, adapter, data, model, step

from qwend.plugin import Facts, Given, Gpu, Host, ImageSpec, Join, Launch, StepView
from qwend.plugin.launches import dangling
from qwend.plugin.samples import FACTS, HOSTS


def launch(view: StepView, host: Host = HOSTS["cpu"]) -> Launch:
    made = ENGINE.launch(view, host)
    inputs = {"base", "before", *(one.name for many in view.given.values() for one in many)}
    assert dangling(made, inputs, ()) is None
    return made


def told(view: StepView, host: Host = HOSTS["cpu"]) -> dict[str, Any]:
    files = {file.name: file.content for file in launch(view, host).files}
    found: dict[str, Any] = json.loads(files["arguments.json"])
    return found


def arguments(view: StepView, host: Host = HOSTS["cpu"]) -> dict[str, Any]:
    found: dict[str, Any] = told(view, host)["arguments"]
    return found


def errors(view: StepView, host: Host = HOSTS["cpu"]) -> list[str]:
    return [f"{f.key}: {f.message}" for f in ENGINE.check(view, host) if f.level == "error"]


def warnings(view: StepView, host: Host = HOSTS["cpu"]) -> list[str]:
    return [f"{f.key}: {f.message}" for f in ENGINE.check(view, host) if f.level == "warning"]


def test_the_parameters_of_a_hand_written_script_reach_it_under_their_own_names() -> None:
    found = arguments(step(THE_SCRIPT, flavour="cuda", gpus=1), HOSTS["cuda"])
    assert found.pop("lora_target") == "q_proj,v_proj"
    for name, value in THE_SCRIPT.items():
        if name not in ("lora_target", "ddp_timeout"):
            assert found[name] == value, name


def test_what_cannot_change_the_output_is_in_the_command_and_not_in_the_fingerprint() -> None:
    slow, quick = step(), step({"ddp_timeout": 60, "preprocessing_num_workers": 4})
    assert launch(slow).files == launch(quick).files
    words = launch(quick).argv
    assert "ddp_timeout=60" in words and "preprocessing_num_workers=4" in words


def test_data_sets_are_named_as_the_recipe_names_them() -> None:
    words = launch(step({"dataset": ["one", "two"], "eval_dataset": "three"})).argv
    joined = [word.parts[0] for word in words if isinstance(word, Join)]
    assert joined == ["one=", "two=", "three="]
    assert words.count("--data") == 2 and words.count("--eval") == 1


def test_the_template_follows_from_the_architecture_or_the_name() -> None:
    assert arguments(step())["template"] == "qwen"
    third = model(msgspec.structs.replace(FACTS, architecture="qwen3_moe"))
    assert arguments(step(given=third))["template"] == "qwen3"
    assert arguments(step(given=model(Facts(), "hf:Qwen/Qwen3-8B")))["template"] == "qwen3"
    assert errors(step(given=model(Facts(), "hf:some/llama"))) == [
        "with.template: the template does not follow from the model (architecture: unknown)"
    ]
    assert errors(step({"template": "qwem"})) == ["with.template: LLaMA-Factory has no template qwem"]


def test_a_training_on_an_adapter_takes_its_base_and_template_along() -> None:
    view = step(given=adapter(template="chatml"))
    assert errors(view) == []
    words = [getattr(word, "name", word) for word in launch(view).argv]
    assert words[words.index("--model") + 1] == "base" and words[words.index("--adapter") + 1] == "before"
    assert arguments(view)["template"] == "chatml"
    stranger = Given("stranger", "adapter/lora", Facts(base="Qwen/Qwen2.5-0.5B"))
    assert errors(step(given=stranger))[0].startswith("from: stranger comes from elsewhere")


def test_several_cards_are_leased_and_each_gets_a_process() -> None:
    one, four = step(flavour="cuda", gpus=1), step(flavour="cuda", gpus=4)
    assert "NPROC_PER_NODE" not in launch(one, HOSTS["cuda"]).env
    made = launch(four, HOSTS["cuda"])
    assert made.env["NPROC_PER_NODE"] == "4" and made.shm == 8 << 30
    # the batch of a step is four times as large, so it is another training
    assert told(one, HOSTS["cuda"])["processes"] == 1 and told(four, HOSTS["cuda"])["processes"] == 4


def test_several_machines_are_told_to_torchrun_by_the_environment() -> None:
    with_ = {"nnodes": 2, "node_rank": 1, "master_addr": "10.0.0.1", "master_port": 29501}
    view = step(with_, flavour="cuda", gpus=8, network="egress")
    assert errors(view, HOSTS["cuda"]) == []
    env = launch(view, HOSTS["cuda"]).env
    assert {name: env[name] for name in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NPROC_PER_NODE")} == {
        "NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501", "NPROC_PER_NODE": "8",
    }  # fmt: skip
    assert told(view, HOSTS["cuda"])["processes"] == 16
    assert ENGINE.product(view).type == "report"  # the first machine has the result
    assert errors(step({"nnodes": 2, "node_rank": 2})) == [
        "with.node_rank: node_rank counts from 0 to 1",
        "with.nnodes: several machines need the address of the first",
        "with.nnodes: machines that train together need the network",
    ]


@pytest.mark.parametrize("name", ["z0", "z1", "z2", "z3", "z2_offload", "z3_offload"])
def test_a_zero_stage_is_a_configuration_and_starts_torchrun_for_one_card_too(name: str) -> None:
    view = step({"deepspeed": name}, flavour="cuda", gpus=1)
    zero = arguments(view, HOSTS["cuda"])["deepspeed"]["zero_optimization"]
    assert zero["stage"] == int(name[1])
    assert ("offload_optimizer" in zero) is name.endswith("_offload")
    assert launch(view, HOSTS["cuda"]).env["FORCE_TORCHRUN"] == "1"


def test_deepspeed_takes_a_mapping_or_a_file_of_ones_own() -> None:
    own = {"zero_optimization": {"stage": 2}}
    assert arguments(step({"deepspeed": own}, flavour="cuda", gpus=1), HOSTS["cuda"])["deepspeed"] == own
    file = {"deepspeed_config": data("ds", "dataset/config")}
    view = step({"deepspeed_config": "ds"}, flavour="cuda", gpus=2, given_=file)
    assert "--config" in launch(view, HOSTS["cuda"]).argv
    both = step({"deepspeed_config": "ds", "deepspeed": "z2"}, flavour="cuda", gpus=2, given_=file)
    assert errors(both, HOSTS["cuda"]) == ["with.deepspeed_config: say either deepspeed or deepspeed_config"]


def test_a_cpu_leaves_out_what_needs_a_card_and_says_so() -> None:
    view = step({"quantization_bit": 4, "deepspeed": "z2", "fp16": True, "flash_attn": "fa2"})
    assert errors(view) == []
    assert [line.partition(":")[0] for line in warnings(view)] == [
        "with.quantization_bit", "with.deepspeed", "with.fp16", "with.flash_attn",
    ]  # fmt: skip
    found = arguments(view)
    assert found["use_cpu"] is True and found["flash_attn"] == "auto" and found["bf16"] is False
    assert not {"quantization_bit", "deepspeed", "fp16"} & found.keys()
    assert "FORCE_TORCHRUN" not in launch(view).env


def test_flash_attention_is_an_image_of_its_own_or_an_error_that_says_why_not() -> None:
    asked = step({"flash_attn": "fa2"}, flavour="cuda", gpus=1)
    assert errors(asked, HOSTS["cuda"]) == []
    assert arguments(asked, HOSTS["cuda"])["flash_attn"] == "fa2"
    images = [ENGINE.image(one, HOSTS["cuda"]) for one in (asked, step(flavour="cuda", gpus=1))]
    assert [image.name for image in images] == ["llama-factory-flash", "llama-factory"]
    assert [isinstance(image, ImageSpec) and image.compiles for image in images] == [True, False]

    volta = errors(step({"flash_attn": "fa2"}, flavour="cuda12", gpus=1), HOSTS["cuda12"])
    assert volta == [
        "with.flash_attn: FlashAttention is compiled by CUDA 13's nvcc, and this step runs on cuda12"
    ]
    turing = msgspec.structs.replace(HOSTS["cuda"], gpus=(Gpu(0, "GPU-0", "T4", 1 << 34, None, (7, 5)),))
    assert errors(asked, turing) == [
        "with.flash_attn: FlashAttention needs compute capability 8.0, and gpu 0 (T4) has 7.5"
    ]
    third = step({"flash_attn": "fa3"}, flavour="cuda", gpus=1)
    assert errors(third, HOSTS["cuda"]) == ["with.flash_attn: there is no build with FlashAttention 3"]


def test_frozen_layers_train_in_mixed_precision_on_a_cpu_too() -> None:
    assert arguments(step({"finetuning_type": "freeze"}))["bf16"] is True
    assert arguments(step({"finetuning_type": "freeze", "bf16": False}))["bf16"] is False
    assert arguments(step())["bf16"] is False


def test_numbers_are_bfloat16_where_every_card_has_it() -> None:
    found = arguments(step(flavour="cuda", gpus=1), HOSTS["cuda"])
    assert (found["bf16"], found["fp16"]) == (True, False)
    old = HOSTS["cuda12"]
    found = arguments(step(flavour="cuda12", gpus=1), old)
    assert (found["bf16"], found["fp16"]) == (False, True)
    said = errors(step({"bf16": True}, flavour="cuda12", gpus=1), old)
    assert said == ["with.bf16: Tesla V100 cannot compute in bfloat16"]
    mixed = msgspec.structs.replace(old, gpus=(*old.gpus, Gpu(1, "GPU-1", "A100", 1 << 36, None, (8, 0))))
    assert arguments(step(flavour="cuda12", gpus=2), mixed)["fp16"] is True


@pytest.mark.parametrize(
    ("with_", "said"),
    [
        ({"stage": "ppo"}, "with.stage: ppo needs a reward_model"),
        (
            {"finetuning_type": "full", "quantization_bit": 4},
            "with.quantization_bit: quantization_bit is for",
        ),
        (
            {"finetuning_type": "full", "use_dora": True},
            "with.use_dora: use_dora is for finetuning_type: lora",
        ),
        ({"stage": "dpo", "neat_packing": True}, "with.neat_packing: neat_packing is for stage: sft"),
        (
            {"train_on_prompt": True, "mask_history": True},
            "with.mask_history: mask_history and train_on_prompt",
        ),
        ({"eval_strategy": "steps"}, "with.eval_strategy: there is nothing to evaluate on"),
        ({"eval_steps": 10}, "with.eval_steps: eval_steps needs eval_strategy"),
        ({"val_size": 0.1, "eval_dataset": "x"}, "with.val_size: say either"),
        ({"interleave_probs": [1.0]}, "with.interleave_probs: weights need an interleaving"),
        (
            {"dataset": ["a", "b"], "mix_strategy": "interleave_under", "interleave_probs": [0.5, 0.4]},
            "with.interleave_probs: weights should add up to 1",
        ),
        (
            {"dataset": ["a", "b"], "mix_strategy": "interleave_over", "interleave_probs": [1.0]},
            "with.interleave_probs: 1 weights for 2 data sets",
        ),
        ({"arguments": {"lora_rnak": 8}}, "with.arguments: LLaMA-Factory has no argument lora_rnak"),
        ({"arguments": {"lora_rank": 8}}, "with.arguments: lora_rank is a parameter of its own"),
        ({"arguments": {"output_dir": "/tmp"}}, "with.arguments: output_dir is set by qwend"),
        ({"pure_bf16": True}, "with.pure_bf16: pure_bf16 needs a card"),
        ({"fp16": True, "bf16": True}, "with.fp16: compute in one of both"),
        ({"pissa_init": True, "stage": "kto"}, "with.pissa_init: pissa_init goes neither"),
    ],
)
def test_what_cannot_work_is_found_before_anything_runs(with_: dict[str, Any], said: str) -> None:
    assert any(error.startswith(said) for error in errors(step(with_))), errors(step(with_))


def test_text_and_conversations_are_told_apart_by_the_stage() -> None:
    assert errors(step({"stage": "pt"})) == []
    view = msgspec.structs.replace(step(), given={"dataset": (data("book", "dataset/text"),)})
    assert errors(view) == ["with.dataset: stage sft needs dataset/sft; book is dataset/text"]


def test_rare_arguments_pass_through_and_extra_args_are_read_as_values() -> None:
    view = step(
        {"arguments": {"neftune_noise_alpha": 5}}, extra_args=("--use_llama_pro=true", "optim_args=a=b")
    )
    assert errors(view) == []
    found = arguments(view)
    assert (found["neftune_noise_alpha"], found["use_llama_pro"], found["optim_args"]) == (5, True, "a=b")
    assert errors(step(extra_args=("--lora_rank",))) == [
        "extra_args: --lora_rank should be written as name=value"
    ]
    assert errors(step(extra_args=("lora_rnak=1",))) == [
        "extra_args: LLaMA-Factory has no argument lora_rnak"
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 2.0},
        {"lora_rank": 0},
        {"quantization_bit": 3},
        {"stage": "grpo"},
        {"cutoff_len": 1},
        {"master_addr": "a b; rm"},
        {"deepspeed": "z9"},
        {"dataset": 3},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ENGINE.params.model_validate_json(json.dumps({"dataset": "mine", **wrong}))


def test_the_product_names_its_base_and_how_it_was_trained() -> None:
    made = ENGINE.product(step())
    assert made.type == "adapter/lora" and made.facts.base == "Qwen/Qwen2.5-0.5B-Instruct"
    assert made.facts.template == "qwen" and made.facts.extra["stage"] == "sft"
    whole = ENGINE.product(step({"finetuning_type": "full"}))
    assert whole.type == "model/safetensors" and whole.facts.parameters == FACTS.parameters


def test_a_killed_training_keeps_its_output_and_needs_what_it_says() -> None:
    made = launch(step())
    assert made.resumable and made.resources.heavy
    full, lora = (
        launch(step({"finetuning_type": kind}), HOSTS["cpu"]).resources.memory for kind in ("full", "lora")
    )
    assert full is not None and lora is not None
    assert full - lora > 6 * (FACTS.parameters or 0)
    assert launch(step(given=model(Facts(), "hf:Qwen/Qwen2"))).resources.memory is None


def test_checkpoints_of_an_adapter_are_kept_and_those_of_a_whole_model_are_not() -> None:
    assert told(step())["keep_checkpoints"] is True
    assert told(step({"finetuning_type": "full"}))["keep_checkpoints"] is False
    assert told(step({"finetuning_type": "full", "keep_checkpoints": True}))["keep_checkpoints"] is True


def test_ppo_runs_in_the_image_with_the_trl_that_it_is_written_for() -> None:
    view = step({"stage": "ppo", "reward_model": "judge"}, given_={"reward_model": adapter(stage="rm")})
    assert errors(view) == []
    names = [ENGINE.image(one, HOSTS["cpu"]).name for one in (view, step({"stage": "rm"}), step())]
    assert names == ["llama-factory-ppo", "llama-factory", "llama-factory"]
    assert (
        launch(view).env["DISABLE_VERSION_CHECK"] == "1" and "DISABLE_VERSION_CHECK" not in launch(step()).env
    )
    assert arguments(view)["reward_model_type"] == "lora"
    said = {"stage": "ppo", "reward_model": "judge", "flash_attn": "fa2"}
    on_a_card = step(said, flavour="cuda", gpus=1, given_={"reward_model": adapter(stage="rm")})
    assert errors(on_a_card, HOSTS["cuda"]) == ["with.flash_attn: the build for ppo has no FlashAttention"]


@pytest.mark.parametrize(
    ("with_", "warned"),
    [
        ({"stage": "ppo"}, True),
        ({"stage": "rm", "finetuning_type": "full"}, True),
        ({"stage": "rm"}, False),
        ({}, False),
    ],
)
def test_what_cannot_go_on_from_a_checkpoint_is_warned_of(with_: dict[str, Any], warned: bool) -> None:
    assert any("begins anew" in line for line in warnings(step(with_))) is warned
