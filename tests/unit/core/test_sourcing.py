from __future__ import annotations

import pytest
from tests.unit.core.compile_kit import ENGINES, INFOS, host

from qwend.core.loader import RecipeFile, load
from qwend.core.selection import select
from qwend.core.sourcing import Sought, architecture, sought

RECIPE = """\
name: s
models:
  base: [shop:a/model/safetensors, shop:b/model/safetensors]
  small: {from: "shop:qwen3/model/gguf", smoke: qwen3}
datasets:
  words: {from: "shop:w/dataset/text", column: text, sample: 20, seed: 1}
steps:
  f16: {uses: toy/convert, from: base}
  train: {uses: toy/train, from: base}
  i: {uses: toy/imatrix, from: small, with: {text: words}}
"""


def found(text: str = RECIPE, smoke: bool = False) -> dict[str, Sought]:
    loaded = load(
        [RecipeFile("r.yaml", text)], engines=INFOS, directory="/r", schemes=("shop", "smoke", "file", "hf")
    )
    return {s.name: s for s in sought(loaded, select(loaded, ENGINES, host()), INFOS, smoke)}


def test_mirrors_are_tried_in_order_each_with_its_place() -> None:
    base = found()["base"]
    assert base.references == ("shop:a/model/safetensors", "shop:b/model/safetensors")
    assert base.where == ("r.yaml:3:10", "r.yaml:3:36")


def test_a_source_is_told_what_its_consumers_accept_and_the_options_of_the_recipe() -> None:
    assert found()["base"].options == {"kind": "model", "wants": ["model/safetensors"], "directory": "/r"}
    assert found()["words"].options == {
        "kind": "dataset", "wants": ["dataset/text"], "directory": "/r", "column": "text", "sample": 20, "seed": 1,
    }  # fmt: skip
    assert found()["small"].where == ("r.yaml:4:17",)


def test_smoke_puts_something_tiny_in_place_of_every_source() -> None:
    tiny = found(smoke=True)
    assert {name: source.references for name, source in tiny.items()} == {
        "base": ("smoke:qwen2",), "small": ("smoke:qwen3",), "words": ("smoke:data",),
    }  # fmt: skip
    assert tiny["words"].options["smoke"]
    assert "sample" not in tiny["words"].options
    own = found(RECIPE.replace("column: text", 'column: text, smoke: "file:tiny.txt"'), smoke=True)
    assert own["words"].references == ("file:tiny.txt",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:Qwen/Qwen2.5-0.5B-Instruct", "qwen2"),
        ("hf:Qwen/Qwen3-8B", "qwen3"),
        ("modelscope:Qwen/Qwen3-30B-A3B", "qwen3moe"),
        ("file:./mine", "qwen2"),
    ],
)
def test_the_stand_in_has_the_architecture_that_the_name_tells(name: str, expected: str) -> None:
    assert architecture(name) == expected
