"""The language below the recipe: YAML 1.2, safe and bounded."""

from __future__ import annotations

import codecs
import math
import resource

import pytest
from tests.unit.core.loader_kit import ENGINES, GOOD, complaints, read

from qwend.core.loader import RecipeFile, load
from qwend.core.recipe_text import MAX_BYTES, decode
from qwend.core.yaml_parser import Limits, parse
from qwend.core.yaml_scalar import scalar
from qwend.core.yaml_tree import Items, Map
from qwend.errors import UsageError


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("1e-5", 1e-5), ("1e5", 1e5), ("+.5", 0.5), ("1.", 1.0), ("-0.0", -0.0), ("6.02E+23", 6.02e23),
        ("0o17", 15), ("0x1F", 31), ("017", 17), ("-12", -12), ("+3", 3), ("18446744073709551615", 2**64 - 1),
        ("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("", None), ("NULL", None),
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("off", "off"), ("y", "y"), ("nUll", "nUll"),
        ("0b11", "0b11"), ("1_000", "1_000"), ("12:30:45", "12:30:45"), ("2026-11-24", "2026-11-24"),
        (".", "."), ("-", "-"), ("+", "+"), ("e5", "e5"), ("1e", "1e"), ("0o8", "0o8"), ("0x", "0x"), ("-0x1", "-0x1"),
        ("1.2.3", "1.2.3"), ("=", "="), ("<<", "<<"), ("9" * 500, "9" * 500),
    ],
)  # fmt: skip
def test_plain_scalars_follow_the_core_schema(text: str, meaning: object) -> None:
    found = scalar(text)
    assert (type(found), found) == (type(meaning), meaning)
    if isinstance(meaning, float):
        assert math.copysign(1, found) == math.copysign(1, meaning)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", [".inf", "-.Inf", ".nan", "1e999", "18446744073709551616", "-9223372036854775809"]
)
def test_numbers_that_no_setting_takes_are_refused_with_their_place(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        scalar(text)
    lines = complaints(GOOD + f"    port: {text}\n")
    assert len(lines) == 1
    assert lines[0].startswith("recipe.yaml:13:11: steps.chat.port: ")


def test_words_of_yaml_1_1_stay_words_and_quoted_numbers_stay_text() -> None:
    step = read(GOOD + "    env: {A: no, B: on, C: '1', D: \"0x1\", E: y}\n    restart: no\n").recipe.steps[
        "chat"
    ]
    assert step.env == {"A": "no", "B": "on", "C": "1", "D": "0x1", "E": "y"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nb: 2\na: 3", '3:1: the key "a" is here a second time (the first is at recipe.yaml:1:1)'),
        (
            "s:\n  x: {k: 1, k: 2}",
            '2:13: the key "k" is here a second time (the first is at recipe.yaml:2:7)',
        ),
        ("1: x", '1:1: the key 1 is no text (write it in quotes: "1")'),
        ("true: x", "1:1: the key true is no text"),
        ("~: x", "1:1: the key ~ is no text"),
        ("[a]: x", "1:1: a key must be text"),
        ("? {a: 1}\n: x", "1:3: a key must be text"),
        ("<<: {a: 1}", "1:1: merge keys (<<) are not part of YAML 1.2"),
        ("a:\n\tb: 1", "2:1: found character that cannot start any token (indent with spaces, not tabs"),
        (
            "a: !!python/object/apply:os.system [x]",
            "1:4: the tag !!python/object/apply:os.system is not allowed",
        ),
        ("a: !!str 5", "1:4: the tag !!str is not allowed"),
        ("a: !x {b: 1}", "1:4: the tag !x is not allowed"),
        ("a: 1\n---\nb: 2", "2:1: a recipe is one YAML document; a second one begins here"),
        ("a: &x [1, *x]", "1:11: *x stands inside what it names"),
        ("a: &x {b: *x}", "1:11: *x stands inside what it names"),
        ("a: *x", "1:4: nothing is named &x above *x"),
        ('a: "\\0"', "1:4: a NUL character cannot be passed to a program"),
        ("a: \x00", "1:4: the character \\x00 is not allowed in YAML"),
        ("a: b\n\x1b[2J", "2:1: the character \\x1b is not allowed in YAML"),
        ("a: \ud800", "1:4: the character \\ud800 is not allowed in YAML"),
        ("a: 'x", "1:6: found unexpected end of stream (a quote or bracket is opened and never closed)"),
        ("a: [1, 2", "2:1: did not find expected ',' or ']'"),
        ("a: b: c", '1:5: mapping values are not allowed in this context (quote text that holds ": ")'),
        ("%YAML 3.0\n---\na: 1", "1:1: found incompatible YAML document"),
        ("- a\n- b", "1:1: a recipe is a mapping of keys, not a list"),
        ("hello", "1:1: a recipe is a mapping of keys, not text"),
        ("", "1:1: this file is empty"),
        ("# only this\n", "1:1: this file is empty"),
    ],
)
def test_what_is_not_a_yaml_mapping_is_refused_at_its_place(text: str, complaint: str) -> None:
    lines = complaints(text)
    assert any(line.startswith(f"recipe.yaml:{complaint}") for line in lines), lines


def test_each_broken_key_is_told_at_once() -> None:
    assert len(complaints("a: 1\na: 2\n3: x\n<<: y\nb: !!x 1")) == 4


def test_an_alias_stands_for_a_copy_and_later_anchors_win() -> None:
    root, errors = parse(RecipeFile("r", "a: &x {k: 1}\nb: *x\nc: &x [2]\nd: *x\n"))
    assert errors == []
    assert isinstance(root, Map)
    assert root.entries["b"][1] is root.entries["a"][1]
    assert isinstance(root.entries["d"][1], Items)


def test_an_alias_bomb_is_refused_where_it_grows_too_large() -> None:
    text = "a: &a [x, x]\n" + "".join(
        f"b{n}: &b{n} [{', '.join([f'*{previous}'] * 9)}]\n"
        for n, previous in enumerate(["a", *(f"b{n}" for n in range(30))])
    )
    (line,) = complaints(text)
    assert "a recipe may hold 200,000 values at most" in line
    assert line.startswith("recipe.yaml:6:")


def test_nesting_is_bounded_directly_and_through_aliases() -> None:
    (line,) = complaints("a: " + "[" * 100_000)
    assert line == "recipe.yaml:1:53: nested deeper than 50 levels"
    chain = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))
    (line,) = complaints(chain)
    assert "nested deeper than 50 levels through *a" in line


def test_nesting_up_to_the_bound_is_read() -> None:
    root, errors = parse(RecipeFile("r", "[" * 5 + "]" * 5), Limits(depth=5))
    assert (type(root), errors) == (Items, [])
    assert parse(RecipeFile("r", "[" * 6 + "]" * 6), Limits(depth=5))[0] is None


def test_a_huge_file_is_refused_before_it_is_parsed() -> None:
    (line,) = complaints("a: " + "x" * MAX_BYTES)
    assert line.startswith("recipe.yaml: a recipe may take 4 MiB at most")


def test_too_many_values_are_refused_where_they_begin() -> None:
    (line,) = complaints("a:\n" + "- x\n" * 300_000)
    assert line.startswith("recipe.yaml:200001:3: a recipe may hold 200,000 values at most")


def test_a_hundred_thousand_steps_are_refused() -> None:
    small = "".join(f"  s{n}: {{}}\n" for n in range(100_000))
    (line,) = complaints("name: x\nsteps:\n" + small)
    assert line == "recipe.yaml:2:1: steps: holds 100,000 steps; 5,000 are the most"


def test_a_thousand_steps_in_a_chain_load_whole() -> None:
    text = "name: big\nmodels: {base: 'hf:a/b'}\nsteps:\n" + "".join(
        f"  s{n}: {{uses: llama-cpp/quantize, from: {'base' if n == 0 else f's{n - 1}'}, with: {{type: Q8_0}}}}\n"
        for n in range(1000)
    )
    loaded = read(text)
    assert len(loaded.variants) == 1000
    assert loaded.variants[999].inputs == ("s998",)


def test_loading_costs_no_more_memory_than_the_limits_allow() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    complaints("a: [" + "[x,y]," * 66_000 + "]")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_is_read_in_any_encoding_of_unicode_that_says_so(encoding: str) -> None:
    text = GOOD + "    env: {NAME: 甄嬛}\n"
    decoded = decode(text.encode(encoding), "r.yaml")
    assert read(decoded).recipe.steps["chat"].env == {"NAME": "甄嬛"}


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"a: 1\nb: \xff\xfe", "r.yaml:2:4"),
        ("name: 甄嬛".encode("gb18030"), "r.yaml:1:7"),
        (codecs.BOM_UTF16_LE + b"a", "r.yaml:1:1"),
        (codecs.BOM_UTF8 + b"\xff", "r.yaml:1:4"),
    ],
)
def test_bytes_that_are_no_text_are_refused_with_their_place(data: bytes, where: str) -> None:
    with pytest.raises(UsageError) as caught:
        decode(data, "r.yaml")
    assert caught.value.where is not None
    assert caught.value.where.rpartition(":")[0] == where.rpartition(":")[0]
    assert caught.value.hint == "save the recipe as UTF-8"


def test_too_many_bytes_are_refused_before_decoding() -> None:
    with pytest.raises(UsageError, match="4 MiB"):
        decode(b"\xff" * (MAX_BYTES + 1), "r.yaml")


def test_no_file_at_all_is_an_error() -> None:
    with pytest.raises(UsageError, match="no recipe to read"):
        load([], engines=ENGINES)
