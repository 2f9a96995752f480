"""Data sets that are read by a step of their own, as a recipe and its plan see them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes import toys
from tests.unit.core.compile_kit import CPU, ENGINES, INFOS, SOURCES, prints, steps

from qwend.core.compiler import compile_recipe
from qwend.core.engine_info import EngineInfo
from qwend.core.loader import RecipeFile, load
from qwend.core.rows import wanted
from qwend.core.selection import select
from qwend.core.sourcing import sought
from qwend.core.terms import Terms
from qwend.errors import UsageError
from qwend.model.artifact import Facts, Pin, PinnedFile
from qwend.model.plan import Compiled
from qwend_plugins.calibration.sample import Sample

RECIPE = """\
name: words
models: {base: "shop:tiny/model/gguf"}
datasets:
  words: {from: "shop:words/dataset/text", column: text, sample: 20, seed: 1}
steps:
  matrix: {uses: toy/imatrix, from: base, with: {text: words}}
"""


def pin(*files: str, type: str = "dataset/text", local: str | None = None, **facts: Any) -> Pin:
    pinned = tuple(PinnedFile(file) for file in files)
    return Pin(ref="shop:w", identity="shop:w@1", type=type, files=pinned, facts=Facts(**facts), local=local)


def compiled(text: str, words: Pin | None = None, *, smoke: bool = False, installed: bool = True) -> Compiled:
    engines = ENGINES | ({"calibration/sample": Sample()} if installed else {})
    infos = INFOS | {name: EngineInfo.of(engine) for name, engine in engines.items()}
    loaded = load([RecipeFile("r.yaml", text)], engines=infos, directory="/r", schemes=("shop", "hf", "file"))
    selection = select(loaded, engines, CPU)
    sources = sought(loaded, selection, infos, smoke)
    pins = {source.name: toys.pin(source.references[0]) for source in sources}
    if words is not None:
        pins["words"] = words
    return compile_recipe(loaded, selection, sources, pins, engines, SOURCES, Terms(CPU, smoke=smoke))


def test_a_sample_is_a_step_between_the_source_and_its_readers() -> None:
    found = steps(compiled(RECIPE))
    assert list(found) == ["base", "words.source", "words", "matrix"]
    assert found["words.source"].kind == "source"
    assert (found["words"].engine, found["words"].kind) == ("calibration/sample", "job")
    assert [edge.step for edge in found["words"].inputs] == ["words.source"]
    assert "words" in [edge.step for edge in found["matrix"].inputs]
    assert found["words"].options["sample"] == 20
    assert found["words"].options["seed"] == 1
    assert found["words"].where == found["words.source"].where == "r.yaml:4:17"


def test_another_sample_reads_again_and_fetches_nothing() -> None:
    before, after = prints(compiled(RECIPE)), prints(compiled(RECIPE.replace("seed: 1", "seed: 2")))
    assert {name for name in before if before[name] != after[name]} == {"words", "matrix"}


def test_a_table_is_read_though_the_recipe_says_nothing_of_rows() -> None:
    plain = RECIPE.replace(", column: text, sample: 20, seed: 1", "")
    assert "words.source" not in steps(compiled(plain))
    table = steps(compiled(plain, pin("wiki/test-00000-of-00001.parquet")))
    assert table["words"].options["sample"] is None
    assert [edge.step for edge in table["words"].inputs] == ["words.source"]


def test_without_the_engine_that_reads_rows_a_sample_is_refused_not_ignored() -> None:
    with pytest.raises(UsageError, match="calibration/sample, which reads rows, is not installed") as caught:
        compiled(RECIPE, installed=False)
    assert caught.value.where == "r.yaml:4:17"


def test_the_stand_in_of_a_smoke_run_is_taken_as_it_is() -> None:
    both = RECIPE.replace(
        'models: {base: "shop:tiny/model/gguf"}',
        'models: {base: {from: "hf:a/b", smoke: "shop:tiny/model/gguf"}}',
    ).replace("seed: 1", 'seed: 1, smoke: "shop:tiny/dataset/text"')
    assert list(steps(compiled(both, smoke=True))) == ["base", "words", "matrix"]


@pytest.mark.parametrize(
    ("given", "options", "expected"),
    [
        (pin("a.txt"), {}, None),
        (pin("a.jsonl"), {}, None),
        (pin("a.csv"), {}, {"sample": None}),
        (pin(local="/data/a.json"), {}, {"sample": None}),
        (pin(local="/data", extra={"format": ".arrow"}), {}, {"sample": None}),
        (pin("a.json", type="dataset/sft"), {}, None),
        (pin("a.json", type="dataset/sft"), {"sample": 3}, {"sample": 3}),
        (pin("a.txt"), {"column": "text"}, {"sample": None, "column": "text"}),
        (pin("a.gguf", type="model/gguf"), {"sample": 3}, None),
    ],
)
def test_rows_are_read_where_they_are_columns_or_only_some_are_meant(
    given: Pin, options: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    assert wanted(given, options) == expected
