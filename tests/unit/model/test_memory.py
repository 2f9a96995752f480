"""What a model takes on disk beside its weights."""

from __future__ import annotations

import pytest

from qwend.model.artifact import Facts
from qwend.model.memory import vocabulary_bytes

QWEN = Facts(vocabulary=151_936)


@pytest.mark.parametrize(
    ("type_", "measured"),
    [
        ("model/gguf", 5_932_032),
        ("model/safetensors", 11_035_229),
        ("model/awq", 11_038_256),
        ("model/gptq", 11_043_220),
        ("model/compressed-tensors", 11_042_053),
    ],
)
def test_the_vocabulary_is_reckoned_as_it_was_measured(type_: str, measured: int) -> None:
    """Of Qwen2.5's, beside the weights of a model that the engines here made."""
    assert vocabulary_bytes(type_, QWEN) == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize("type_", ["model/ollama", "dataset/text", "report", "adapter/lora"])
def test_what_carries_no_vocabulary_is_not_charged_for_one(type_: str) -> None:
    assert vocabulary_bytes(type_, QWEN) == 0


def test_an_unknown_vocabulary_is_not_made_up() -> None:
    assert vocabulary_bytes("model/gguf", Facts()) == 0
