"""`${VAR}`, several files, `--set`."""

from __future__ import annotations

import pytest
from tests.unit.core.loader_kit import GOOD, complaints, read

from qwend.core.interpolate import InterpolationError, interpolate
from qwend.core.recipe_text import variables

ENV = {"A": "x", "EMPTY": "", "PORT": "8080"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${A}", "x"), ("a${A}b${A}", "axbx"), ("${B:-d}", "d"), ("${B-d}", "d"), ("${A:-d}", "x"), ("${B:-}", ""),
        ("${EMPTY}", ""), ("${EMPTY:-d}", "d"), ("${EMPTY-d}", ""), ("${A:+i}", "i"), ("${EMPTY:+i}", ""),
        ("${EMPTY+i}", "i"), ("${B+i}", ""), ("${A:?m}", "x"), ("${A?m}", "x"), ("${EMPTY?m}", ""),
        ("$$", "$"), ("$${A}", "${A}"), ("$$A", "$A"), ("$5 and $", "$5 and $"), ("}", "}"),
        ("${B:-${C:-${A}}}", "x"), ("${B:-$$}", "$"), ("${B:-a}b}", "ab}"), ("${B:-a b:c}", "a b:c"), ("", ""),
    ],
)  # fmt: skip
def test_variables_are_filled_as_compose_fills_them(text: str, filled: str) -> None:
    assert interpolate(text, ENV) == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${B}", "the variable B is not set"), ("${AA}", "did you mean A?"), ("${B:?give it}", "is not set: give it"),
        ("${EMPTY:?}", "the variable EMPTY is empty"), ("$A", r"\$A is ambiguous"), ("${A", "is no variable"),
        ("${", "is no variable"), ("${}", "is no variable"), ("${1}", "is no variable"), ("${A b}", "is no variable"),
        ("${B:-x", "is never closed"), ("${B:-" * 40, "nested too deeply"), ("${B:=x}", "is no variable"),
    ],
)  # fmt: skip
def test_what_cannot_be_filled_is_an_error(text: str, message: str) -> None:
    with pytest.raises(InterpolationError, match=message):
        interpolate(text, ENV)


def test_a_text_cannot_grow_without_bound() -> None:
    with pytest.raises(InterpolationError, match="grows beyond"):
        interpolate("${A}" * 1000, {"A": "x" * 10_000})


def test_a_long_text_with_many_escapes_is_filled_in_one_pass() -> None:
    text = "${B:-" + "$$" * 400_000 + "}"
    assert interpolate(text, {}) == "$" * 400_000


def test_the_client_learns_which_variables_a_text_mentions() -> None:
    assert variables("a: ${B}${A:-${C}} $$${D} $${E} $F ${} # ${G}") == ("A", "B", "C", "D", "G")


def test_a_plain_variable_is_read_again_as_a_scalar_and_a_quoted_one_stays_text() -> None:
    text = GOOD + "    port: ${PORT}\n    env: {P: '${PORT}', Q: \"${PORT}\"}\n    gpus:\n      - ${N:-0}\n"
    step = read(text, env=ENV).recipe.steps["chat"]
    assert (step.port, step.env, step.gpus) == (8080, {"P": "8080", "Q": "8080"}, (0,))


def test_a_variable_inside_braces_is_a_mistake_of_yaml_that_says_what_to_do() -> None:
    (line,) = complaints(GOOD + "    with: {context: ${CTX}}\n", env={"CTX": "512"})
    assert line.startswith("recipe.yaml:13:")
    assert line.endswith("(inside {…} and […] YAML takes no ${…}: give the key a line of its own)")


def test_a_variable_never_makes_structure() -> None:
    step = read(GOOD + "    env: {P: '${A}'}\n", env={"A": "x}\n    port: 1"}).recipe.steps["chat"]
    assert (step.env, step.port) == ({"P": "x}\n    port: 1"}, None)


def test_keys_are_not_filled() -> None:
    assert '"${A}" is no name' in complaints(GOOD + "    env: {'${A}': x}\n", env=ENV)[0]


def test_a_missing_variable_is_one_error_at_its_place() -> None:
    assert complaints(GOOD + "    port: ${QPORT}\n    host: ${QHOST:?which address}\n") == [
        "recipe.yaml:13:11: steps.chat.port: the variable QPORT is not set "
        "(export QPORT=…, or give a default: ${QPORT:-…})",
        "recipe.yaml:14:11: steps.chat.host: the variable QHOST is not set: which address",
    ]


def test_a_variable_with_bytes_that_are_no_text_is_refused() -> None:
    assert "not UTF-8" in complaints(GOOD + "    host: ${A}\n", env={"A": "\udcff"})[0]


def test_later_files_lie_on_earlier_ones() -> None:
    over = "steps:\n  chat:\n    with: {context: 512}\n  q4: {from: other}\nmodels: {other: 'hf:c/d'}\n"
    loaded = read(GOOD, over)
    assert loaded.recipe.steps["chat"].uses == "llama-cpp/serve"
    assert loaded.params["chat"].context == 512  # type: ignore[attr-defined]
    assert loaded.recipe.steps["q4"].from_ == ("other",)
    assert list(loaded.recipe.steps) == ["q4", "chat"]
    assert loaded.warnings == ("recipe.yaml:4:3: models.base is used by no step",)


def test_lists_are_replaced_whole() -> None:
    base = GOOD.replace("base: hf:Qwen", "base: [hf:a/b, hf:Qwen").replace("x.gguf", "x.gguf]")
    assert read(base, "models: {base: ['hf:e/f']}").recipe.models["base"].from_ == ("hf:e/f",)


def test_an_error_names_the_file_that_won() -> None:
    assert complaints(GOOD, "steps:\n  q4:\n    with: {type: Q9}\n")[0].startswith(
        'file1.yaml:3:18: steps.q4.with.type: unknown quantisation "Q9"'
    )


def test_mistakes_of_several_files_are_told_together() -> None:
    lines = complaints("a: [", "b: {", "c: 1")
    assert [line.split(":")[0] for line in lines] == ["recipe.yaml", "file1.yaml"]


def test_set_replaces_a_value_and_its_value_is_yaml() -> None:
    loaded = read(
        GOOD, sets=["steps.chat.with.context=512", "steps.chat.gpus=[0, 1]", "steps.chat.env={A: '1'}"]
    )
    assert loaded.params["chat"].context == 512  # type: ignore[attr-defined]
    assert loaded.recipe.steps["chat"].gpus == (0, 1)
    assert loaded.recipe.steps["chat"].env == {"A": "1"}


def test_set_reaches_into_lists_by_number_and_fills_empty_mappings() -> None:
    text = GOOD.replace("from: base", "from: [base]") + "    with:\n"
    loaded = read(text, sets=["steps.q4.from.0=new", "models.new=hf:c/d", "steps.chat.with.context=512"])
    assert loaded.recipe.steps["q4"].from_ == ("new",)


def test_set_leaves_dollar_signs_to_the_shell() -> None:
    assert read(GOOD, sets=["steps.chat.env.A=a${B}$$"]).recipe.steps["chat"].env == {"A": "a${B}$$"}


def test_set_changes_no_other_place_that_shares_an_anchor() -> None:
    text = (
        "x-w: &w {context: 64}\n"
        + GOOD
        + "    with: *w\n  other: {uses: llama-cpp/serve, from: q4, with: *w}\n"
    )
    loaded = read(text, sets=["steps.chat.with.context=512"])
    assert [loaded.params[name].model_dump()["context"] for name in ("chat", "other")] == [512, 64]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        (
            "steps.q4.with.type=Q9",
            '--set steps.q4.with.type=Q9: steps.q4.with.type: unknown quantisation "Q9"',
        ),
        ("nonsense", '--set nonsense: "nonsense" is no key.path=value'),
        ("=x", "is no key.path=value"),
        ("a..b=x", "is no key.path=value"),
        ("steps.q4.from.0=x", 'steps.q4.from is "base"; nothing can be set below it'),
        ("steps.q4.with.type=[", "--set steps.q4.with.type=[: did not find expected node content"),
        ("steps.q4.with.type=\x1b", "--set steps.q4.with.type=\\x1b: the character \\x1b is not allowed"),
        ("steps.chta.port=80", "steps.chta.uses: is required"),
        (
            "steps.chat.gpus=[0, 0]",
            "--set steps.chat.gpus=[0, 0]: steps.chat.gpus[1]: this card is in the list twice",
        ),
    ],
)
def test_an_error_of_set_names_the_set(setting: str, complaint: str) -> None:
    lines = complaints(GOOD, sets=[setting])
    assert any(complaint in line and line.startswith("--set ") for line in lines), lines


def test_set_counts_items_of_a_list() -> None:
    (line,) = complaints(GOOD.replace("from: base", "from: [base]"), sets=["steps.q4.from.1=x"])
    assert 'steps.q4.from is a list of 1; it has no "1"' in line
