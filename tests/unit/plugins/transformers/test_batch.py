"""The other engines of transformers: batches, the terminal, the tiny model that learns."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.plugins.llama_cpp.kit import HOST, QWEN_05B, QWEN_7B, model

from qwend.core.binding import describe
from qwend.plugin import Engine, Facts, Given, Pin, StepView
from qwend_plugins.transformers.batch import Batch
from qwend_plugins.transformers.chat import Chat
from qwend_plugins.transformers.smoke import Smoke
from qwend_plugins.vllm.batch import Batch as VllmBatch

BASE = model("base", QWEN_05B, "model/safetensors", "hf:Qwen/Qwen2.5-0.5B-Instruct@c0ffee")
PROMPTS = Given("questions", "dataset/prompts", Facts(rows=7))


def step(engine: Engine, with_: dict[str, Any], **view: Any) -> StepView:
    """A step named `answers` that asks `questions`."""
    asks = "prompts" in engine.params.model_fields
    made = StepView(
        name="answers",
        recipe="recipe",
        params=engine.params.model_validate(with_ | ({"prompts": "questions"} if asks else {})),
        inputs=(BASE,),
        given={"prompts": (PROMPTS,)} if asks else {},
    )
    return msgspec.structs.replace(made, **view)


def command(engine: Engine, view: StepView) -> str:
    return " ".join(describe(engine.launch(view, HOST)))


def errors(engine: Engine, view: StepView) -> list[str]:
    return [f"{f.key}: {f.message}" for f in engine.check(view, HOST) if f.level == "error"]


def identity(engine: Engine, **with_: Any) -> str:
    return command(engine, step(engine, with_)).partition("--identity ")[2].partition(" ")[0]


@pytest.mark.parametrize("engine", [Batch(), VllmBatch()], ids=lambda engine: engine.name)
def test_a_batch_keeps_what_it_answered_and_reads_what_it_answered_before(engine: Engine) -> None:
    launch = engine.launch(step(engine, {}), HOST)
    assert launch.resumable
    assert "--prompts <questions> --out <out> --before <@previous>" in " ".join(describe(launch))
    made = engine.product(step(engine, {}))
    assert made is not None and (made.type, made.facts.rows) == ("results/jsonl", 7)


@pytest.mark.parametrize("engine", [Batch(), VllmBatch()], ids=lambda engine: engine.name)
def test_answers_depend_on_model_and_settings_and_not_on_the_prompts_or_the_speed(engine: Engine) -> None:
    plain = identity(engine)
    assert len(plain) == 64
    assert identity(engine, temperature=0.0) != plain != identity(engine, max_tokens=5)
    assert identity(engine, dtype="float32") != plain
    assert identity(engine, system="Be brief.") == plain, "the system's words stand in each row"
    other = step(engine, {}, inputs=(msgspec.structs.replace(BASE, pin=Pin("x", "hf:other@1", BASE.type)),))
    assert plain not in command(engine, other)
    renamed = step(engine, {}, inputs=(msgspec.structs.replace(BASE, name="mine"),))
    assert plain in command(engine, renamed)
    if engine.name == "transformers/batch":
        assert identity(engine, batch_size=3) == plain


def test_an_adapter_or_a_step_that_made_the_model_is_part_of_it() -> None:
    tuned = Given("tuned", "model/safetensors", QWEN_05B, "x/export", {"a": 1}, (BASE,))
    engine = Batch()
    one, two = (step(engine, {}, inputs=(msgspec.structs.replace(tuned, params={"a": n}),)) for n in (1, 2))
    assert command(engine, one) != command(engine, two)
    adapter = Given("mine", "adapter/lora", Facts(), pin=Pin("file:mine", "sha256:1", "adapter/lora"))
    with_adapter = step(engine, {"adapter": "mine"}, given={"prompts": (PROMPTS,), "adapter": (adapter,)})
    assert "--adapter <mine>" in command(engine, with_adapter)
    assert identity(engine) not in command(engine, with_adapter)


@pytest.mark.parametrize(
    ("with_", "words"),
    [
        ({"temperature": 0.0, "stop": ("a",)}, '--sampling {"max_tokens": 512, "stop": ["a"], "temperature": 0.0}'),
        ({"chat": False}, "--no-chat"),
        ({"system": "Be brief.", "column": "q"}, "--system Be brief. --column q"),
        ({"batch_size": 3}, "--batch-size 3"),
    ],
)  # fmt: skip
def test_parameters_of_a_batch_become_words(with_: dict[str, Any], words: str) -> None:
    assert words in command(Batch(), step(Batch(), with_))


def test_vllms_words_stand_behind_the_drivers() -> None:
    view = step(VllmBatch(), {"max_model_len": 4096, "max_num_seqs": 100}, flavour="cuda", gpus=2)
    words = command(VllmBatch(), view).partition(" -- ")[2]
    assert words == "--model <base> --max-model-len 4096 --max-num-seqs 100 --tensor-parallel-size 2"


@pytest.mark.parametrize(
    ("engine", "with_", "message"),
    [
        (Batch(), {"max_tokens": 32_768}, "with.max_tokens: answers of 32768 tokens fill the context of 32768"),
        (Batch(), {"chat": False, "system": "x"}, "with.system: chat: false continues texts, where no system speaks"),
        (VllmBatch(), {"max_tokens": 8192}, "with.max_tokens: answers of 8192 tokens fill the context of 8192"),
        (VllmBatch(), {"data_parallel_size": 2}, "with.data_parallel_size: this step runs on the CPU, where there are "
         "no cards to share work"),
    ],
)  # fmt: skip
def test_a_batch_that_cannot_work_is_an_error_of_the_plan(
    engine: Engine, with_: dict[str, Any], message: str
) -> None:
    assert message in errors(engine, step(engine, with_))


def test_memory_grows_with_the_prompts_that_are_answered_at_once() -> None:
    one, eight = (
        Batch().launch(step(Batch(), {"batch_size": size, "context": 1024}), HOST).resources.memory
        for size in (1, 8)
    )
    assert one is not None and eight is not None
    assert eight - one == 7 * 2 * 24 * 2 * 64 * 1024 * 2


def test_the_terminal_gets_streaming_settings_and_no_probe() -> None:
    view = step(Chat(), {"system": "Be brief.", "temperature": 0.5, "prompt": "Hi"})
    words = command(Chat(), view)
    assert words.endswith('--sampling {"temperature": 0.5} --system Be brief. --prompt Hi')
    assert Chat().launch(view, HOST).probe is None


def test_the_tiny_model_learns_a_text_and_a_real_one_is_refused() -> None:
    tiny = msgspec.structs.replace(BASE, facts=msgspec.structs.replace(QWEN_05B, parameters=40_000_000))
    text = (Given("wiki", "dataset/text"),)
    view = step(Smoke(), {"text": "wiki", "max_steps": 5}, inputs=(tiny,), given={"text": text})
    words = "--device cpu --threads <threads> --out <out> --text <wiki> --max-steps 5"
    assert command(Smoke(), view) == f"bin/python <tf_smoke.py> --model <base> {words}"
    assert errors(Smoke(), view) == []
    large = msgspec.structs.replace(BASE, facts=QWEN_7B)
    assert errors(Smoke(), step(Smoke(), {}, inputs=(large,))) == [
        "from: base has 7,615,616,512 parameters; this is for tiny models"
    ]
