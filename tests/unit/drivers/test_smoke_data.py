"""The built-in data and vocabulary of smoke runs: the same every time, and what the formats ask for."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_data import Draw, main, make
from qwen_vocabulary import (
    THINKING_ADDED,
    VocabularyError,
    byte_spelling,
    chat_template,
    parse_ranks,
    rebuild_merges,
)


def table(tokens: list[bytes]) -> bytes:
    return b"\n".join(base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens))


BYTES = [bytes([byte]) for byte in range(256)]


def test_every_byte_has_a_printable_spelling_of_its_own() -> None:
    spelling = byte_spelling()
    assert len(set(spelling)) == 256
    assert (spelling[32], spelling[10], spelling[ord("a")]) == ("Ġ", "Ċ", "a")
    assert all(char.isprintable() and not char.isspace() for char in spelling)


def test_a_merge_is_what_byte_pair_encoding_does_last() -> None:
    tokens = [*BYTES, b"ab", b"bc", b"abc", b"abcd", b"cd"]
    merges = rebuild_merges(tokens)
    # "abc" could be ab+c or a+bc: rank order joins ab first. "abcd" was made before cd existed.
    assert merges == [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"abc", b"d"), (b"c", b"d")]


def test_a_token_that_no_merge_explains_is_refused() -> None:
    with pytest.raises(VocabularyError, match="does not explain its token b'xyz'"):
        rebuild_merges([*BYTES, b"xyz"])


def test_ranks_are_read_in_order_and_gaps_are_refused() -> None:
    assert parse_ranks(table([b"a", b"\xff"])) == [b"a", b"\xff"]
    with pytest.raises(VocabularyError, match="not consecutive"):
        parse_ranks(table([b"a"]) + b"\n" + base64.b64encode(b"b") + b" 5")


def test_only_qwen2_has_a_system_prompt_of_its_own_and_only_qwen3_a_switch_for_thinking() -> None:
    assert "You are Qwen, created by Alibaba Cloud." in chat_template("qwen2")
    assert "enable_thinking" not in chat_template("qwen2")
    assert "Alibaba" not in chat_template("qwen3")
    assert "enable_thinking" in chat_template("qwen3moe")
    assert "__" not in chat_template("qwen2") + chat_template("qwen3")
    assert "<think>" in THINKING_ADDED


@pytest.mark.parametrize(
    ("layout", "keys"),
    [
        ("messages", {"messages"}),
        ("alpaca", {"instruction", "input", "output"}),
        ("sharegpt", {"conversations"}),
    ],
)
def test_conversations_come_in_the_layout_that_was_asked_for(layout: str, keys: set[str]) -> None:
    rows = make("sft", 20, 0, layout)
    assert all(row.keys() == keys for row in rows)
    assert len({json.dumps(row) for row in rows}) > 15, "rows differ"


def test_text_is_english_and_chinese_in_turn_with_every_place_filled() -> None:
    rows = [row["text"] for row in make("text", 50, 0, "messages")]
    assert all(row.isascii() for row in rows[::2])
    assert not any(row.isascii() for row in rows[1::2])
    assert not any("{" in row for row in rows)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        main(["--kind", "text", "--rows", "30", "--seed", str(seed), "--out", str(tmp_path / name)])
    read = {name: (tmp_path / name / "data.jsonl").read_bytes() for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
    assert (tmp_path / "a" / "data.txt").read_text(encoding="utf-8").count("\n\n") == 29


def test_the_generator_follows_its_published_sequence() -> None:
    """SplitMix64 from seed 0 begins with these values (Steele, Lea and Flood, 2014; java.util.SplittableRandom)."""
    draw = Draw(0)
    assert [draw.below(1 << 64) for _ in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@given(st.integers(0, 2**70), st.integers(1, 1000))
def test_a_draw_stays_below_its_limit(seed: int, limit: int) -> None:
    assert 0 <= Draw(seed).below(limit) < limit
