from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.plugins.llama_cpp.kit import QWEN_05B, QWEN_7B, command, errors, launch, model, step, warnings

from qwend.plugin import Facts, Given, HostProgram, UpstreamImage
from qwend_plugins.transformers.serve import Serve

ENGINE = Serve()
HEAD = "bin/python <tf_serve.py> --model <base> --device {device}"
TAIL = "--host <address> --port <port> --name step"
ADAPTER = Given("mine", "adapter/lora", Facts(bytes=10_000_000, base="Qwen/Qwen2.5-0.5B-Instruct"))


def words(with_: dict[str, Any], **view: Any) -> str:
    return command(ENGINE, step(ENGINE, with_=with_, **view))


@pytest.mark.parametrize(
    ("with_", "middle", "end"),
    [
        ({}, "", ""),
        ({"dtype": "float32", "context": 4096}, " --dtype float32 --context 4096", ""),
        ({"attn_implementation": "eager"}, " --attn-implementation eager", ""),
        ({"served_model_name": ["gpt"], "reasoning": True}, "", " --name gpt --reasoning"),
        ({"chat_template": "{{ messages }}"}, " --chat-template <chat_template.jinja>", ""),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "max_waiting": 3},
            "",
            ' --max-waiting 3 --chat-template-kwargs {"enable_thinking": false}',
        ),
    ],
)
def test_parameters_become_the_drivers_words(with_: dict[str, Any], middle: str, end: str) -> None:
    head = HEAD.format(device="cpu")
    assert words(with_) == f"{head}{middle} --threads <threads> {TAIL}{end}"


def test_flavours_become_devices_and_only_cards_spread_layers() -> None:
    assert " --device mps " in words({}, flavour="apple")
    assert "--device-map" not in words({"device_map": "balanced"})
    assert " --device cuda --device-map balanced " in words(
        {"device_map": "balanced"}, flavour="cuda12", gpus=2
    )


def test_a_key_reaches_the_server_as_a_file() -> None:
    view = step(ENGINE, secrets=("api_key",))
    assert launch(ENGINE, view).secrets == ("api_key",)
    assert command(ENGINE, view).endswith("--api-key-file <api_key>")


def test_code_of_a_model_runs_only_where_the_step_says_so() -> None:
    assert "--trust-remote-code" not in words({})
    assert "--trust-remote-code" in words({}, trust_remote_code=True)


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("model/safetensors", "transformers"),
        ("model/compressed-tensors", "transformers"),
        ("model/gptq", "gptq"),
        ("model/awq", "gptq"),
    ],
)
def test_a_packed_checkpoint_runs_where_its_kernels_are(kind: str, image: str) -> None:
    spec = ENGINE.image(step(ENGINE, model(kind=kind)), msgspec.UNSET)  # type: ignore[arg-type]
    assert not isinstance(spec, HostProgram | UpstreamImage)
    assert spec.name == image


def test_an_adapter_trained_on_another_model_of_the_recipe_is_an_error() -> None:
    base = model("base", QWEN_05B, "model/safetensors", "hf:Qwen/Qwen2.5-0.5B-Instruct")
    other = model("other", QWEN_7B, "model/safetensors", "hf:Qwen/Qwen2.5-7B-Instruct")
    trained = msgspec.structs.replace(ADAPTER, engine="llama-factory/train", lineage=(base,))
    fits = step(ENGINE, base, with_={"adapter": "mine"}, inputs={"adapter": trained})
    assert errors(ENGINE, fits) == []
    assert " --adapter <mine> " in command(ENGINE, fits)
    assert errors(ENGINE, step(ENGINE, other, with_={"adapter": "mine"}, inputs={"adapter": trained})) == [
        "with.adapter: mine was trained on hf:Qwen/Qwen2.5-0.5B-Instruct, and this step takes "
        "hf:Qwen/Qwen2.5-7B-Instruct"
    ]


def test_an_adapter_whose_configuration_names_another_model_is_a_warning_since_folders_are_renamed() -> None:
    other = model("other", QWEN_7B, "model/safetensors", "hf:Qwen/Qwen2.5-7B-Instruct@main")
    mirrored = model("same", QWEN_05B, "model/safetensors", "modelscope:Qwen/Qwen2.5-0.5B-Instruct@x")
    view = step(ENGINE, other, with_={"adapter": "mine"}, inputs={"adapter": ADAPTER})
    assert errors(ENGINE, view) == []
    assert "says that it was trained on Qwen/Qwen2.5-0.5B-Instruct" in warnings(ENGINE, view)[0]
    same = step(ENGINE, mirrored, with_={"adapter": "mine"}, inputs={"adapter": ADAPTER})
    assert warnings(ENGINE, same) == []


@pytest.mark.parametrize(
    ("with_", "view", "message"),
    [
        ({"context": 65536}, {}, "with.context: a context of 65536 is beyond what the model was trained for (32768)"),
        ({"attn_implementation": "flash_attention_2"}, {},
         "with.attn_implementation: flash_attention_2 needs a card; this runs on cpu"),
        ({}, {"extra_args": ("--x",)}, "extra_args: this server has no further arguments: all of them are parameters"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_an_error_of_the_plan(
    with_: dict[str, Any], view: dict[str, Any], message: str
) -> None:
    assert errors(ENGINE, step(ENGINE, with_=with_, **view)) == [message]


def test_memory_is_weights_cache_headroom_and_on_a_cpu_the_libraries() -> None:
    small = model(facts=QWEN_05B, kind="model/safetensors")
    resources = launch(ENGINE, step(ENGINE, small, with_={"context": 4096})).resources
    cache = 2 * 24 * 2 * 64 * 4096 * 2
    assert resources.memory == 988_097_824 + cache + 2**29 + int(988_097_824 * 0.05) + 2**30
    wide = launch(ENGINE, step(ENGINE, small, with_={"context": 4096, "dtype": "float32"})).resources
    assert wide.memory is not None and wide.memory > resources.memory + 980_000_000
    two = launch(ENGINE, step(ENGINE, small, with_={"context": 4096}, flavour="cuda", gpus=2)).resources
    assert two.gpu_memory is not None and two.gpus == 2
    assert two.gpu_memory * 2 == pytest.approx(resources.memory - 2**30, abs=2)
    assert (
        launch(ENGINE, step(ENGINE, model(facts=Facts(), kind="model/safetensors"))).resources.memory is None
    )


def test_it_is_ready_when_it_gave_one_real_token() -> None:
    probe = launch(ENGINE, step(ENGINE)).probe
    assert probe is not None and probe.work is not None and probe.work.body is not None
    assert (probe.ready.path, probe.work.field) == ("/health", "usage.completion_tokens")
    assert probe.work.body["model"] == "step"
