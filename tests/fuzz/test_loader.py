"""The recipe loader met with mutated recipes and with arbitrary text: it loads, or it says what is wrong and where."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.loader_kit import ENGINES, GOOD

from qwend.core.loader import load
from qwend.core.recipe_text import RecipeFile
from qwend.errors import UsageError

CASES = int(os.environ.get("QWEND_FUZZ_CASES", "25")) * 20
settings.register_profile("same", derandomize="QWEND_FUZZ_CASES" not in os.environ, deadline=None)
"""The same cases at each run, and others where more are asked for."""
ROOT = Path(__file__).resolve().parents[2]
RECIPES = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "recipes").glob("*.yaml"))]
RECIPES += [GOOD] * len(RECIPES)  # its engines are known here, so that parameters are looked at too
PLACE = re.compile(r"fuzz\.yaml(:\d+:\d+)?: ")
PIECES = [
    "{", "}", "[", "]", ": ", "- ", "&a ", "*a", "<<: *a", "!!x ", "|\n", ">\n", "#", "'", '"', "${X}", "${", "$$",
    "\n", "\n  ", "steps:", "uses:", "from:", "matrix:", "1e999", "0x", "~", "\x00", "\x1b[2J", "\u202e", "\ud800",
    "\t", "null", "a" * 500, "[" * 60, "true", ".nan", "2026-11-24", "=", "%", "@", "`", "\ufeff", "\x85", "? ",
    "---\n", "...\n",
]  # fmt: skip
told: Counter[str] = Counter()


def meet(text: str) -> None:
    try:
        load([RecipeFile("fuzz.yaml", text)], engines=ENGINES, env={"X": "y"})
    except UsageError as error:
        told["refused"] += 1
        for line in error.lines():
            assert PLACE.match(line) or "more" in line, line
            assert len(line) < 4000
            assert not set(line) & {"\x1b", "\x00", "\n", "\u202e"}, "it is shown escaped"
            line.encode("utf-8")
    else:
        told["loaded"] += 1


@settings(settings.get_profile("same"), max_examples=CASES)
@given(seed=st.integers(0, 2**64), edits=st.integers(1, 8))
def test_a_mutated_recipe_loads_or_is_refused_with_its_place(seed: int, edits: int) -> None:
    chance = random.Random(seed)
    text = chance.choice(RECIPES)
    for _ in range(edits):
        at = chance.randrange(len(text) + 1)
        match chance.randrange(4):
            case 0:
                text = text[:at] + chance.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[at + chance.randrange(1, 40) :]
            case 2:
                other = chance.choice(RECIPES)
                start = chance.randrange(len(other))
                text = text[:at] + other[start : start + chance.randrange(200)] + text[at:]
            case 3:
                lines = text.split("\n")
                chance.shuffle(lines)
                text = "\n".join(lines)
    meet(text)


@settings(settings.get_profile("same"), max_examples=CASES)
@given(parts=st.lists(st.sampled_from(PIECES) | st.text(max_size=12), max_size=60))
def test_arbitrary_text_is_refused_with_its_place(parts: list[str]) -> None:
    meet("".join(parts))


@settings(settings.get_profile("same"), max_examples=CASES // 4)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
        max_leaves=20,
    ),
    key=st.sampled_from(["name", "version", "models", "datasets", "steps", "steps.chat", "steps.chat.with"]),
)
def test_any_value_under_any_key_is_refused_with_its_place(value: object, key: str) -> None:
    tree: dict[str, object] = {"name": "r", "steps": {"chat": {"uses": next(iter(ENGINES))}}}
    *path, last = key.split(".")
    here = tree
    for part in path:
        here = here[part]  # type: ignore[assignment]
    here[last] = value
    meet(json.dumps(tree, ensure_ascii=False))


def test_the_cases_were_of_both_kinds() -> None:
    """Last in this file: a fuzzer that only meets one answer meets nothing."""
    print(f"\nfuzz: {told.total()} recipes, {told['refused']} refused and {told['loaded']} loaded")
    assert told["refused"] > CASES // 2
