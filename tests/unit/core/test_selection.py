from __future__ import annotations

from typing import Any

import pytest
from tests.unit.core.compile_kit import compiled, complaints, host

RECIPE = """\
name: s
models: {m: "shop:tiny/model/gguf"}
steps:
  q: {uses: toy/quantize, from: m, with: {type: Q8_0}}
  cpu: {uses: toy/serve, from: q, when: {device: cpu}}
  card: {uses: toy/serve, from: q, when: {device: cuda}}
  mac: {uses: toy/serve, from: q, when: {system: darwin}}
  extra: {uses: toy/serve, from: m, profiles: [debug]}
  after: {uses: toy/compare, from: [q], needs: extra}
  talk: {uses: toy/chat, from: q}
"""


def names(**more: Any) -> list[str]:
    return [step.name for step in compiled(RECIPE, **more).steps if step.kind != "source"]


def test_conditions_and_profiles_decide_and_what_depends_on_them_goes_along() -> None:
    assert names() == ["q", "cpu"]
    assert names(host=host("cuda")) == ["q", "card"]
    assert names(host=host("cuda"), device="cpu") == ["q", "cpu"]
    assert names(profiles=("debug",)) == ["q", "cpu", "extra", "after"]
    assert compiled(RECIPE).left_out == ("card", "mac", "extra", "after", "talk")


def test_a_step_is_taken_with_all_that_it_needs_and_no_more() -> None:
    assert names(only=("q",)) == ["q"]
    assert names(only=("talk",)) == ["q", "talk"]
    assert names(only=("extra",)) == ["extra"]


def test_a_source_that_nothing_reads_is_left_alone() -> None:
    text = RECIPE.replace("models: {m:", 'models: {n: "shop:other/model/gguf", m:')
    assert [step.name for step in compiled(text, only=("q",)).steps] == ["m", "q"]


def test_asking_for_what_cannot_be_had_says_why() -> None:
    assert complaints(RECIPE, only=("card",)) == [
        "recipe.yaml:6:3: steps.card is left out here: it is for cuda, and this runs on cpu"
    ]
    assert complaints(RECIPE, only=("qq",)) == ['there is no step "qq" in the recipe; did you mean q?']


def test_a_recipe_of_which_nothing_is_left_says_why() -> None:
    text = (
        'name: s\nmodels: {m: "shop:t/model/gguf"}\nsteps: {s: {uses: toy/serve, from: m, profiles: [x]}}\n'
    )
    (line,) = complaints(text)
    assert line == "no step is left to do (s: its profile x is not chosen) (--profile x)"
    (line,) = complaints(text.replace("profiles: [x]", "when: {device: cuda}"))
    assert line.endswith("(the conditions under when: decide that; --device asks for another device)")


def test_a_profile_that_no_step_has_is_told_with_what_was_meant() -> None:
    assert complaints(RECIPE, profiles=("debgu",)) == [
        'no step has the profile "debgu"; did you mean debug? (there are debug)'
    ]


@pytest.mark.parametrize(("only", "left"), [(("q",), 2), (("q[Q8_0]",), 1)])
def test_a_matrix_is_asked_for_whole_or_by_value(only: tuple[str, ...], left: int) -> None:
    text = RECIPE.replace("with: {type: Q8_0}", "matrix: {type: [Q8_0, Q4_K_M]}")
    text = text.replace("from: q,", "from: 'q[Q8_0]',").replace("from: q}", "from: 'q[Q8_0]'}")
    assert len([s for s in compiled(text, only=only).steps if s.name.startswith("q")]) == left
