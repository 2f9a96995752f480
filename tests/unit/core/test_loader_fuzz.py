"""Whatever comes in, loading ends soon and raises nothing but UsageError."""

from __future__ import annotations

import contextlib
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.core.loader_kit import ENGINES

from qwend.core.loader import Loaded, RecipeFile, load
from qwend.core.recipe_text import decode, variables
from qwend.errors import QwendError, UsageError
from qwend.model.recipe import Recipe, Step

ENV = {"A": "x", "B": "{a: 1}", "N": "3"}

words = st.sampled_from(
    ["base", "calib", "q", "r", "q[F16]", "q[x", "F16", "Q8_0", "hf:a/b", "file:../x", "smoke:qwen2", "${A}", "${B}",
     "${N}", "${", "$$", "1e-5", "0x10", "no", "<<", "-", "", "../x", "0.0.0.0", "a <= 1.1 * q.b", "\x1b[2J", "\u202e"]
)  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=12)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
step_keys = st.sampled_from([field.alias or name for name, field in Step.model_fields.items()])
engine_names = st.sampled_from([*ENGINES, "llama-cpp/none"])
some_steps = st.dictionaries(
    st.sampled_from(["q", "r", "s", "base"]) | words,
    st.builds(
        lambda uses, rest: {"uses": uses, **rest},
        engine_names,
        st.dictionaries(step_keys, values, max_size=6),
    )
    | values,
    max_size=4,
)
recipes = st.fixed_dictionaries(
    {"name": st.just("t") | values, "steps": some_steps | values},
    optional={
        **{key: values for key in Recipe.model_fields if key not in ("name", "steps")},
        "models": st.dictionaries(st.sampled_from(["base", "q"]), values, max_size=2) | values,
    },
)
set_keys = st.sampled_from(["steps.q.with.type", "steps.q", "steps.q.from.0", "a.b", ""])
set_words = st.tuples(set_keys, words | st.text(max_size=8)).map("=".join)
sets = st.lists(set_words | st.text(max_size=20), max_size=3)


def attempt(*texts: str, settings_: list[str] | None = None) -> Loaded | None:
    files = [RecipeFile(f"r{index}.yaml", text) for index, text in enumerate(texts)]
    try:
        return load(files, engines=ENGINES, sets=settings_ or [], env=ENV)
    except UsageError as error:
        refusal = error
    assert refusal.details
    for line in refusal.lines():
        assert line.isprintable(), "a message obeys no control character"
        assert len(line) < 3000
    assert QwendError.from_dict(refusal.to_dict()).lines() == refusal.lines()
    return None


def dump(data: Any) -> str:
    return yaml.safe_dump(data, allow_unicode=True, sort_keys=False)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipes, recipes | values, sets)
def test_recipes_of_any_shape_are_loaded_or_refused(first: Any, second: Any, settings_: list[str]) -> None:
    attempt(dump(first), settings_=settings_)
    attempt(dump(first), dump(second), settings_=settings_)


@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_loaded_or_refused(data: bytes) -> None:
    with contextlib.suppress(UsageError):
        attempt(decode(data, "r.yaml"))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from([
    "a", "b", ": ", "\n", "  ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!x ", "? ", "| \n", "> ", "'", '"', "#",
    "---\n", "...\n", "%", "\t", "\\", "${A}", "<<", "\ufeff", "\x85", "\u2028", "steps", "name", "uses",
]), max_size=60).map("".join))  # fmt: skip
def test_anything_made_of_yamls_own_signs_is_loaded_or_refused(text: str) -> None:
    variables(text)
    attempt(text)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        ["[", "{a: ", "- ", "? ", "&a [*a, ", "!", "*", "a: &a\n ", "'", "\t", "a: b\n", "${A:-"]
    ),
    st.integers(1, 20_000),
)
def test_repetition_of_any_sign_ends_within_bounds(sign: str, times: int) -> None:
    attempt("a: " + sign * times)
