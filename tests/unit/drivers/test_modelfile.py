"""The grammar of a Modelfile: what Ollama reads, with the line of each mistake; and what is written is read again."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfile import Command, Modelfile, ModelfileError, parse, write

WHOLE = '''# a comment
from ./model.gguf

PARAMETER temperature 0.7
Parameter stop "<|im_end|>"
PARAMETER stop <|im_start|>
PARAMETER num_ctx 8192
PARAMETER low_vram true
TEMPLATE """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
# no comment
{{ end }}"""
SYSTEM "You are
Zhen Huan."
LICENSE   Apache-2.0
REQUIRES 0.14.0
MESSAGE user Who "are" you?
MESSAGE assistant """I am
Huan Huan."""
'''


def test_every_instruction_is_read_with_the_line_that_it_begins_on() -> None:
    made = parse(WHOLE)
    assert [(c.name, c.key, c.line) for c in made.commands] == [
        ("from", "", 2),
        ("parameter", "temperature", 4),
        ("parameter", "stop", 5),
        ("parameter", "stop", 6),
        ("parameter", "num_ctx", 7),
        ("parameter", "low_vram", 8),
        ("template", "", 9),
        ("system", "", 13),
        ("license", "", 15),
        ("requires", "", 16),
        ("message", "user", 17),
        ("message", "assistant", 18),
    ]
    assert made.text("from") == "./model.gguf"
    assert made.text("template") == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n# no comment\n{{ end }}"
    )
    assert made.text("system") == "You are\nZhen Huan."


def test_parameters_come_typed_and_those_that_ollama_dropped_are_left_out() -> None:
    assert parse(WHOLE).parameters == {
        "temperature": 0.7,
        "num_ctx": 8192,
        "stop": ["<|im_end|>", "<|im_start|>"],
    }


def test_a_history_keeps_its_order_and_quotes_within_a_text() -> None:
    assert parse(WHOLE).messages == [
        {"role": "user", "content": 'Who "are" you?'},
        {"role": "assistant", "content": "I am\nHuan Huan."},
    ]


def test_windows_line_ends_and_a_byte_order_mark_change_nothing() -> None:
    assert parse("\ufeff" + WHOLE.replace("\n", "\r\n")) == parse(WHOLE)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 0, "there is no FROM"),
        ("SYSTEM hello\n", 0, "there is no FROM"),
        ("FROM x\n\nFORM y\n", 3, "'FORM' is no instruction"),
        ("FROM x\n- y\n", 2, "'-' is no instruction"),
        ("FROM\n", 1, "FROM has nothing behind it"),
        ("FROM x\nSYSTEM\nLICENSE y\n", 2, "SYSTEM has nothing behind it"),
        ("FROM x\nPARAMETER\n", 2, "needs a name and a value"),
        ("FROM x\nPARAMETER heat 1\n", 2, "no parameter 'heat'"),
        ("FROM x\nPARAMETER top_k many\n", 2, "a whole number, not 'many'"),
        ("FROM x\nPARAMETER top_p most\n", 2, "a number, not 'most'"),
        ("FROM x\nMESSAGE robot hi\n", 2, "'robot' is none of"),
        ("FROM x\nREQUIRES soon\n", 2, "a version such as"),
        ('FROM x\nSYSTEM """never\nclosed\n', 2, "never closed"),
        ('FROM x\n\nSYSTEM "never\nclosed\n', 3, "never closed"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(ModelfileError) as error:
        parse(text)
    assert (error.value.line, says in str(error.value)) == (line, True), str(error.value)


def test_what_no_quotes_can_hold_is_refused_rather_than_written_wrong() -> None:
    with pytest.raises(ModelfileError, match="no escape"):
        write(Modelfile((Command("system", 'a """ b\n'),)))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1)


@given(TEXT, TEXT)
def test_what_is_written_is_read_as_the_same(system: str, said: str) -> None:
    made = Modelfile(
        (
            Command("from", "x"),
            Command("system", system),
            Command("message", said, "user"),
            Command("license", "y"),
        )
    )
    try:
        text = write(made)
    except ModelfileError:
        assert any('"""' in one or one.endswith('"') for one in (system, said))
        return
    assert [(c.name, c.key, c.text) for c in parse(text).commands] == [
        (c.name, c.key, c.text) for c in made.commands
    ]


@given(st.text(alphabet='FROMSYTE"#\n x', max_size=60))
def test_no_text_brings_the_parser_down(text: str) -> None:
    with contextlib.suppress(ModelfileError):
        assert parse(text).text("from") is not None
