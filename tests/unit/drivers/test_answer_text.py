"""From tokens to what a client reads: whole characters, stop strings, thinking and tool calls."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from answer_text import Decoder, Piece, Splitter, StopFilter
from hypothesis import given
from hypothesis import strategies as st

THINK = '<think>\nhm, <b>\n</think>\n\nThe answer.\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


def cut(text: str, places: Iterable[int]) -> list[str]:
    """The text in pieces, cut at these places."""
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


def split(splitter: Splitter, pieces: Iterable[str]) -> list[Piece]:
    made = [piece for text in pieces for piece in splitter.add(text)]
    return [*made, *splitter.rest()]


def joined(pieces: Iterable[Piece], kind: str) -> str:
    return "".join(piece.text for piece in pieces if piece.kind == kind)


@given(st.text(alphabet="añ漢😀 b", max_size=12))
def test_text_comes_out_of_its_bytes_whole_and_no_character_in_halves(text: str) -> None:
    decoder = Decoder(lambda tokens: bytes(tokens).decode("utf-8", "replace"))
    pieces = [decoder.add(byte) for byte in text.encode()]
    assert "".join(pieces) + decoder.rest() == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_bytes_that_never_become_a_character_show_at_the_end() -> None:
    decoder = Decoder(lambda tokens: bytes(tokens).decode("utf-8", "replace"))
    assert [decoder.add(byte) for byte in b"a\xe6\xbc"] == ["a", "", ""]
    assert decoder.rest() == "\N{REPLACEMENT CHARACTER}"


@given(st.text(alphabet="abc\n", max_size=30), st.lists(st.text(alphabet="abc\n", min_size=1, max_size=4), max_size=3),
       st.lists(st.integers(0, 30), max_size=6))  # fmt: skip
def test_text_ends_before_the_first_stop_string_however_it_is_cut(
    text: str, stops: list[str], places: list[int]
) -> None:
    stop_filter = StopFilter(stops)
    out = "".join(stop_filter.add(piece) for piece in cut(text, places))
    if not stop_filter.stopped:
        out += stop_filter.rest()
    found = [text.find(stop) for stop in stops if stop in text]
    if found:
        assert stop_filter.stopped
        assert text.startswith(out)
        assert not any(stop in out for stop in stops)
    else:
        assert (out, stop_filter.stopped) == (text, False)


@given(st.lists(st.integers(0, len(THINK)), max_size=12))
def test_thinking_and_calls_are_told_apart_however_the_text_is_cut(places: list[int]) -> None:
    pieces = split(Splitter(True, True), cut(THINK, places))
    assert joined(pieces, "thought") == "\nhm, <b>\n"
    assert joined(pieces, "text") == "The answer."
    (call,) = [piece for piece in pieces if piece.kind == "call"]
    assert (call.name, json.loads(call.text)) == ("f", {"x": 1})


def test_what_is_not_asked_for_stays_text() -> None:
    assert joined(split(Splitter(False, False), [THINK]), "text") == THINK
    thoughts = split(Splitter(True, False), [THINK])
    assert "<tool_call>" in joined(thoughts, "text")
    calls = split(Splitter(False, True), [THINK])
    assert joined(calls, "text").startswith("<think>")


def test_an_answer_that_begins_within_the_thinking_is_thinking_until_it_closes() -> None:
    pieces = split(Splitter(True, False, thinking=True), ["so ", "I say</thi", "nk>\n\nYes"])
    assert (joined(pieces, "thought"), joined(pieces, "text")) == ("so I say", "Yes")


@pytest.mark.parametrize("body", ["no json", "{}", '["a"]', '{"arguments": {}}'])
def test_a_call_that_is_none_stays_as_the_model_wrote_it(body: str) -> None:
    text = f"<tool_call>{body}</tool_call>"
    assert joined(split(Splitter(False, True), [text]), "text") == text


def test_an_answer_cut_off_in_a_call_or_a_thought_loses_nothing() -> None:
    assert joined(split(Splitter(False, True), ["a<tool_call>{"]), "text") == "a<tool_call>{"
    assert joined(split(Splitter(True, False), ["<think>hm"]), "thought") == "hm"
