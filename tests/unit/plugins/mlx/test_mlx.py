"""MLX: what is converted to what, what a plan refuses, and the words that mlx-lm is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qwend.plugin import Facts, Finding, Given, Host, InputRef, StepView, Word
from qwend_plugins.mlx.convert import Convert, ConvertParams, bits_per_weight
from qwend_plugins.mlx.generate import Generate, GenerateParams
from qwend_plugins.mlx.serve import Serve, ServeParams

LINUX = Host("linux", "x86_64", 8)
MAC = Host("darwin", "arm64", 10, chip="Apple M4", os_version="macOS 15.1")
QWEN3 = Facts(
    architecture="qwen3", parameters=600_000_000, bytes=1_200_000_000, context=32768, hidden=1024, bits=16.0
)
CHECKPOINT = Given("base", "model/safetensors", QWEN3)
SMALL = Given("small", "model/mlx", msgspec.structs.replace(QWEN3, bits=4.5))


def convert(model: Given = CHECKPOINT, flavour: str = "apple", **params: Any) -> StepView:
    return StepView("small", "r", ConvertParams(**params), inputs=(model,), flavour=flavour)


def serve(model: Given = SMALL, **more: Any) -> StepView:
    params = ServeParams(**more.pop("params", {}))
    return StepView("chat", "r", params, inputs=(model,), flavour=more.pop("flavour", "apple"), **more)


def told(step: StepView) -> list[Word]:
    return list(Convert().launch(step, MAC).argv)


def findings(step: StepView, host: Host = MAC) -> list[Finding]:
    return list(Convert().check(step, host))


@pytest.mark.parametrize(
    ("params", "bits"),
    [
        ({}, 4.5),
        ({"q_bits": 8}, 8.5),
        ({"q_bits": 8, "q_group_size": 32}, 9.0),
        ({"q_mode": "mxfp4"}, 4.25),
        ({"q_mode": "nvfp4"}, 4.5),
        ({"q_mode": "mxfp8"}, 8.25),
        ({"dtype": "float16"}, 16.0),
        ({"quant_predicate": "mixed_3_6"}, None),
    ],
)
def test_bits_per_weight_are_those_that_mlx_reports(params: dict[str, Any], bits: float | None) -> None:
    assert bits_per_weight(ConvertParams(**params)) == bits


def test_nothing_said_quantises_and_a_cast_alone_does_not() -> None:
    assert "--quantize" in told(convert())
    assert "--quantize" not in told(convert(dtype="bfloat16"))
    assert "--quantize" in told(convert(dtype="bfloat16", q_bits=4))
    assert "--quantize" not in told(convert(quantize=False))


def test_a_recipe_of_mixed_bits_is_told_its_group_size_since_mlx_has_no_default_for_it() -> None:
    words = told(convert(quant_predicate="mixed_4_6"))
    assert words[words.index("--q-group-size") + 1] == "64"
    assert words[words.index("--quant-predicate") + 1] == "mixed_4_6"


def test_nothing_is_ever_uploaded() -> None:
    assert not any(isinstance(word, str) and "upload" in word for word in told(convert()))
    assert not Convert().launch(convert(), MAC).network


def test_a_qwen_written_out_again_is_a_checkpoint_for_everybody_but_experts_stay_as_mlx_stacks_them() -> None:
    assert Convert().product(convert(SMALL, dequantize=True)).type == "model/safetensors"
    moe = Given("small", "model/mlx", msgspec.structs.replace(SMALL.facts, architecture="qwen3_moe"))
    assert Convert().product(convert(moe, dequantize=True)).type == "model/mlx"
    made = Convert().product(convert())
    assert (made.type, made.facts.bits, made.facts.bytes) == ("model/mlx", 4.5, 337_500_000)


@pytest.mark.parametrize(
    ("step", "key", "says"),
    [
        (convert(SMALL), "from", "quantised already (4.5"),
        (convert(dequantize=True), "with.dequantize", "nothing to undo"),
        (convert(SMALL, quantize=True, dequantize=True), "with.dequantize", "not both"),
        (convert(q_bits=4, quantize=False), "with.q_bits", "nothing is quantised"),
        (convert(q_mode="mxfp4", q_bits=8), "with.q_bits", "has 4 and no other"),
        (convert(q_mode="mxfp4", quant_predicate="mixed_3_6"), "with.quant_predicate", "for affine"),
        (convert(q_group_size=16), "with.q_group_size", "32, 64 or 128"),
        (convert(quant_predicate="mixed_3_6", q_bits=4), "with.q_bits", "says the bits itself"),
    ],
)
def test_what_cannot_be_converted_is_told_at_its_key(step: StepView, key: str, says: str) -> None:
    found = findings(step)
    assert key in [one.key for one in found]
    assert any(says in one.message for one in found)


@pytest.mark.parametrize(
    ("host", "flavour", "says"),
    [
        (Host("darwin", "arm64", 8, os_version="macOS 13.6"), "apple", "macOS 14 or newer"),
        (Host("darwin", "x86_64", 8, os_version="macOS 14.1"), "cpu", "Intel"),
        (Host("darwin", "arm64", 8, os_version="macOS 15.1"), "cpu", "runs with Metal"),
        (Host("linux", "aarch64", 8), "cpu", "x86-64"),
    ],
)
def test_a_machine_that_cannot_run_mlx_is_told_so_in_the_plan(host: Host, flavour: str, says: str) -> None:
    for engine, step in ((Convert(), convert(flavour=flavour)), (Serve(), serve(flavour=flavour))):
        assert any(says in one.message for one in engine.check(step, host))


def test_a_machine_that_can_has_nothing_said_of_it() -> None:
    assert findings(convert()) == []
    assert list(Serve().check(serve(flavour="cpu"), LINUX)) == []


def test_the_server_is_told_every_name_and_the_model_and_its_key() -> None:
    launch = Serve().launch(serve(params={"served_model_name": ("qwen",)}, secrets=("api_key",)), MAC)
    words = list(launch.argv)
    own, theirs = words[: words.index("--")], words[words.index("--") + 1 :]
    assert [own[at + 1] for at, word in enumerate(own) if word == "--name"] == ["chat", "qwen"]
    assert "--key-file" in own and launch.secrets == ("api_key",)
    assert theirs[:2] == ["--model", InputRef("small")]


def test_on_a_cpu_nothing_is_compiled_while_the_server_runs() -> None:
    assert Serve().launch(serve(flavour="cpu"), LINUX).env["MLX_DISABLE_COMPILE"] == "1"
    assert "MLX_DISABLE_COMPILE" not in Serve().launch(serve(), MAC).env


def test_a_draft_of_another_vocabulary_is_refused() -> None:
    model = Given("small", "model/mlx", msgspec.structs.replace(QWEN3, bits=4.5, vocabulary=151_936))
    other = Given("tiny", "model/mlx", Facts(vocabulary=32_000))
    step = StepView(
        "chat",
        "r",
        ServeParams(draft="tiny", context=None),
        inputs=(model,),
        given={"draft": (other,)},
        flavour="apple",
    )
    assert [one.key for one in Serve().check(step, MAC)] == ["with.draft"]


def test_another_template_asks_a_batch_again() -> None:
    prompts = Given("asked", "dataset/prompts", Facts(rows=3))

    def identity(**params: Any) -> Word:
        step = StepView(
            "b",
            "r",
            GenerateParams(prompts="asked", **params),
            inputs=(SMALL,),
            given={"prompts": (prompts,)},
        )
        words = list(Generate().launch(step, LINUX).argv)
        return words[words.index("--identity") + 1]

    assert identity() == identity()
    assert identity() != identity(chat_template_args={"enable_thinking": False})
    assert identity() != identity(chat_template="{{ messages }}")
