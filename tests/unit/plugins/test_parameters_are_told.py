"""No parameter of MLX's and Ollama's engines is taken and forgotten: each changes what is launched."""

from __future__ import annotations

from typing import Any

import pytest

from qwend.plugin import DriverRef, Engine, Facts, Given, Host, Launch, StepView, Word
from qwend_plugins.mlx.convert import Convert
from qwend_plugins.mlx.fuse import Fuse
from qwend_plugins.mlx.generate import Generate
from qwend_plugins.mlx.lora import Lora
from qwend_plugins.mlx.serve import Serve as MlxServe
from qwend_plugins.ollama.modelfile import WriteModelfile
from qwend_plugins.ollama.serve import Serve as OllamaServe

HOST = Host("linux", "x86_64", 8)
QWEN = Facts(
    architecture="qwen3", parameters=600_000_000, bytes=1_200_000_000, context=32_768, hidden=1024, layers=28
)
TEXT = {"chat_template": "{{ messages }}", "chat_template_args": {"enable_thinking": False}}
SAMPLED = {"top_p": 0.9, "top_k": 20, "min_p": 0.1}
SAID = {
    "system": "Be brief.",
    "template": "{{ .Prompt }}",
    "parameters": {"top_k": 3},
    "license": "MIT",
    "messages": ({"role": "user", "content": "Hi"},),
}
VALUES: list[tuple[Engine, str, dict[str, Any]]] = [
    (
        Convert(),
        "model/safetensors",
        {
            "quantize": False,
            "q_bits": 8,
            "q_group_size": 32,
            "q_mode": "mxfp8",
            "quant_predicate": "mixed_3_6",
        }
        | {"dtype": "float16", "dequantize": True},
    ),
    (
        Lora(),
        "model/mlx",
        {"valid": "more", "mask_prompt": True, "num_layers": 4, "lora_parameters": {"rank": 4}, "iters": 7}
        | {"batch_size": 2, "grad_accumulation_steps": 2, "learning_rate": 0.1, "optimizer": "sgd", "seed": 7}
        | {
            "lr_schedule": {"name": "cosine_decay", "arguments": (0.1, 9)},
            "max_seq_length": 64,
            "val_batches": 3,
        }
        | {
            "grad_checkpoint": True,
            "steps_per_eval": 9,
            "steps_per_report": 3,
            "save_every": 5,
            "dataset": "more",
        },
    ),
    (Fuse(), "adapter/lora", {"base": "more", "dequantize": True}),
    (
        MlxServe(),
        "model/mlx",
        {**TEXT, **SAMPLED, "temp": 0.5, "max_tokens": 9, "context": 512, "use_default_chat_template": True}
        | {"served_model_name": ("other",), "decode_concurrency": 4, "prompt_concurrency": 2, "draft": "more"}
        | {"prefill_step_size": 256, "prompt_cache_size": 2, "prompt_cache_bytes": "500MB", "kv_bits": 8}
        | {"kv_group_size": 32, "quantized_kv_start": 0, "num_draft_tokens": 2},
    ),
    (
        Generate(),
        "model/mlx",
        {
            **TEXT,
            **SAMPLED,
            "prompts": "more",
            "column": "q",
            "system": "Be brief.",
            "chat": False,
            "max_tokens": 9,
        }
        | {"temperature": 0.5, "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.5}
        | {"seed": 7, "stop": ("END",), "max_kv_size": 512},
    ),
    (WriteModelfile(), "model/gguf", {**SAID, "weights": False}),
    (
        OllamaServe(),
        "model/gguf",
        {**SAID, "url": "http://10.0.0.7:1", "managed": True, "name": "mine", "served_model_name": ("other",)}
        | {"keep_alive": "-1", "quantize": "q8_0"},
    ),
]
NEEDED = {"mlx/lora": {"dataset": "first"}, "mlx/generate": {"prompts": "first"}}
REFERENCES = {
    "dataset": "dataset/sft",
    "valid": "dataset/sft",
    "prompts": "dataset/prompts",
    "base": "model/mlx",
}


def launched(engine: Engine, kind: str, params: dict[str, Any]) -> Launch:
    """What a step with these parameters launches; a reference among them is given."""
    refers = {name: value for name, value in params.items() if name in {*REFERENCES, "draft"}}
    given: dict[str, tuple[Given, ...]] = {
        name: (Given(one, REFERENCES.get(name, "model/mlx"), QWEN),) for name, one in refers.items()
    }
    base = Given("base", kind, QWEN)
    step = StepView(
        "s", "r", engine.params(**params), inputs=(base,), given=given, flavour="cpu", runtime="native"
    )
    return engine.launch(step, HOST)


@pytest.mark.parametrize(("engine", "kind", "values"), VALUES, ids=[one[0].name for one in VALUES])
def test_every_parameter_reaches_the_program(engine: Engine, kind: str, values: dict[str, Any]) -> None:
    assert set(values) == set(engine.params.model_fields), "a parameter that this test does not know"
    needed = NEEDED.get(engine.name, {})
    before = told(launched(engine, kind, needed))
    for name, value in values.items():
        assert told(launched(engine, kind, {**needed, name: value})) != before, (
            f"{name} is taken and not told"
        )


def told(launch: Launch) -> tuple[list[Word], dict[str, str], dict[str, Word]]:
    """What a program hears: its words, but for a digest over all of them, files that they name, its environment."""
    words = list(launch.argv)
    if "--identity" in words:
        del words[words.index("--identity") + 1]
    named = {one.name for one in words if isinstance(one, DriverRef)}
    return words, {one.name: one.content for one in launch.files if one.name in named}, dict(launch.env)
