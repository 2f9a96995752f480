"""Whole Modelfiles, as they were looked through once: of a Qwen2.5, and of a Qwen3 that thinks and calls tools.

`golden/NAME.jinja` is a chat template in the family's form, `NAME.Modelfile` what is written of a GGUF that holds it,
`NAME.txt` a conversation as both templates render it. They change only where what is written is meant to change.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.drivers.go_renderer import ask_go, normal
from tests.unit.plugins.ollama.test_modelfile_engine import gguf, given, step, written

from qwend_plugins.ollama.common import DRIVERS

sys.path.append(str(DRIVERS))
from go_chat import as_ollama, data_of, jinja_of, tool
from modelfile import parse

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = {
    "qwen2.5": ("qwen2", {"temp": 0.7, "top_p": 0.8, "top_k": 20, "penalty_repeat": 1.05}),
    "qwen3": ("qwen3", {"temp": 0.6, "top_p": 0.95, "top_k": 20}),
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "北京"}}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "You are Zhen Huan."},
    {"role": "user", "content": "Is it warm?"},
    {"role": "assistant", "content": "", "reasoning_content": "I had better look.", "tool_calls": [CALL]},
    {"role": "tool", "content": "31 °C"},
]
TOOLS = [tool("weather"), tool("time")]


def golden(name: str, ending: str) -> str:
    return (GOLDEN / f"{name}.{ending}").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_modelfile_of_a_gguf_is_the_golden_one(name: str, tmp_path: Path) -> None:
    kind, sampling = FAMILIES[name]
    more = {f"general__sampling__{key}": value for key, value in sampling.items()}
    model = gguf(
        tmp_path / f"{name}-Q4_K_M.gguf", general__architecture=kind, general__license="apache-2.0",
        tokenizer__chat_template=golden(name, "jinja"), **more,
    )  # fmt: skip
    assert written(tmp_path, model, step(given(kind)), "--no-weights") == golden(name, "Modelfile")


@pytest.mark.parametrize("name", FAMILIES)
def test_its_template_says_what_the_models_own_says(name: str) -> None:
    template = parse(golden(name, "Modelfile")).text("template")
    assert template is not None
    said = as_ollama(template, TALK, TOOLS)
    assert said == golden(name, "txt")
    own = jinja_of(golden(name, "jinja"))(TALK, TOOLS)
    assert plain(said) == plain(own)
    assert ("<think>\nI had better look.\n</think>" in said) is (name == "qwen3")


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed: its renderer cannot be asked")
@pytest.mark.parametrize("name", FAMILIES)
def test_go_itself_renders_the_same(name: str, tmp_path: Path) -> None:
    asked = [{"Template": parse(golden(name, "Modelfile")).text("template"), "Data": data_of(TALK, TOOLS)}]
    [said] = ask_go(tmp_path, asked)
    assert normal(said) == normal(golden(name, "txt"))


def plain(text: str) -> str:
    """With the JSON in it as Go writes it: without blanks."""
    found = []
    for line in text.splitlines():
        try:
            found.append(json.dumps(json.loads(line), sort_keys=True, ensure_ascii=False))
        except ValueError:
            found.append(line)
    return "\n".join(found)
