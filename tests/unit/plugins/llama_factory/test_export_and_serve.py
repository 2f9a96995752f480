"""`llama-factory/export`, `/serve` and `/chat`: the base of an adapter is the one that it was trained on."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from qwend.plugin import Engine, Facts, Given, Launch, Pin, StepView
from qwend.plugin.launches import dangling
from qwend.plugin.samples import FACTS, HOSTS
from qwend_plugins.llama_factory.export import Export
from qwend_plugins.llama_factory.serve import Chat, Serve

HOST = HOSTS["cpu"]
BASE = Given("base", "model/safetensors", FACTS, pin=Pin("hf:Qwen/A@1", "hf:Qwen/A@1", "model/safetensors"))
OTHER = msgspec.structs.replace(
    BASE, name="other", pin=Pin("hf:Qwen/B@1", "hf:Qwen/B@1", "model/safetensors")
)
STRANGER = Given("stranger", "adapter/lora", Facts(base="Qwen/A"))


def adapter(stage: str = "sft", **params: Any) -> Given:
    facts = Facts(base="Qwen/A", extra={"stage": stage})
    return Given(
        "train", "adapter/lora", facts, "llama-factory/train", params, (BASE, Given("rows", "dataset/sft"))
    )


def step(
    engine: Engine, given: Given, with_: dict[str, Any] | None = None, base: Given | None = None
) -> StepView:
    said = (with_ or {}) | ({"base": base.name} if base else {})
    params = engine.params.model_validate_json(json.dumps(said))
    named: dict[str, tuple[Given, ...]] = {"base": (base,)} if base else {}
    return StepView(name="chat", recipe="recipe", params=params, inputs=(given,), given=named)


def launch(engine: Engine, view: StepView) -> Launch:
    made = engine.launch(view, HOST)
    assert dangling(made, {"base", "other", "train", "stranger"}, ()) is None
    return made


def words(engine: Engine, view: StepView) -> list[Any]:
    return [getattr(word, "name", word) for word in launch(engine, view).argv]


def told(engine: Engine, view: StepView) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        next(file.content for file in launch(engine, view).files if file.name == "arguments.json")
    )
    return found


def errors(engine: Engine, view: StepView) -> list[str]:
    return [f"{f.key}: {f.message}" for f in engine.check(view, HOST) if f.level == "error"]


ENGINES: list[Engine] = [Export(), Serve(), Chat()]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_the_base_and_the_template_come_from_the_training(engine: Engine) -> None:
    view = step(engine, adapter(template="chatml"))
    assert errors(engine, view) == []
    found = words(engine, view)
    assert found[found.index("--model") + 1] == "base" and found[found.index("--adapter") + 1] == "train"
    assert told(engine, view)["template"] == "chatml"
    assert told(engine, step(engine, adapter()))["template"] == "qwen"


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_an_adapter_from_elsewhere_needs_its_base_named(engine: Engine) -> None:
    assert errors(engine, step(engine, STRANGER))[0].startswith("from: stranger comes from elsewhere")
    view = step(engine, STRANGER, base=OTHER)
    assert errors(engine, view) == []
    assert words(engine, view)[words(engine, view).index("--model") + 1] == "other"


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_a_reward_model_has_nothing_to_say(engine: Engine) -> None:
    assert errors(engine, step(engine, adapter("rm")))[0].startswith("from: train is a reward model")


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_arguments_are_held_to_its_parser(engine: Engine) -> None:
    assert errors(engine, step(engine, adapter(), {"arguments": {"temprature": 1}})) == [
        "with.arguments: LLaMA-Factory has no argument temprature"
    ]
    assert told(engine, step(engine, adapter(), {"arguments": {"num_beams": 2}}))["num_beams"] == 2


def test_a_wrong_pairing_is_refused_before_anything_is_loaded() -> None:
    engine = Export()
    assert errors(engine, step(engine, adapter(), base=BASE)) == []
    assert errors(engine, step(engine, adapter(), base=OTHER)) == [
        "with.base: train was trained on base, not on other"
    ]


def test_a_merge_writes_safetensors_of_the_size_and_format_that_was_asked_for() -> None:
    engine = Export()
    found = told(engine, step(engine, adapter(), {"export_size": 2, "infer_dtype": "float16"}))
    assert (found["export_size"], found["infer_dtype"], found["export_legacy_format"]) == (
        2,
        "float16",
        False,
    )
    assert engine.product(step(engine, adapter(), {"infer_dtype": "float32"})).facts.bits == 32.0
    assert engine.product(step(engine, adapter())).facts == FACTS


def test_a_checkpoint_is_merged_instead_of_the_end() -> None:
    engine = Export()
    refs = launch(engine, step(engine, adapter(), {"checkpoint": 20})).argv
    assert "checkpoint-20" in [getattr(word, "path", None) for word in refs]


def test_serving_asks_for_one_token_and_for_the_key_if_there_is_one() -> None:
    engine = Serve()
    made = launch(engine, step(engine, adapter()))
    assert made.probe is not None and made.probe.work is not None
    assert made.probe.work.body is not None and made.probe.work.body["model"] == "chat"
    assert "--api-key-file" not in made.argv
    keyed = msgspec.structs.replace(step(engine, adapter()), secrets=("api_key",))
    assert "--api-key-file" in engine.launch(keyed, HOST).argv


def test_a_whole_model_is_served_without_an_adapter() -> None:
    engine = Serve()
    found = words(engine, step(engine, BASE))
    assert "--adapter" not in found and "finetuning_type" not in told(engine, step(engine, BASE))
    assert errors(engine, step(engine, BASE, base=OTHER)) == ["with.base: base is for an adapter"]
    assert errors(engine, step(engine, BASE, {"quantization_bit": 4})) == [
        "with.quantization_bit: bitsandbytes needs a card"
    ]
