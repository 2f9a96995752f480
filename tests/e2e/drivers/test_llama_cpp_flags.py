"""Every typed flag of llama.cpp's engines stands in the help of the tool of the pinned version."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import cache_folder

from qwend.plugin import load_image
from qwend_plugins.llama_cpp import qwend_engines

pytestmark = [pytest.mark.e2e, pytest.mark.native]

TOOLS = {
    "llama-cpp/convert": ("llama-cpp-convert", "convert_hf_to_gguf"),
    "llama-cpp/convert-lora": ("llama-cpp-convert", "convert_lora_to_gguf"),
    "llama-cpp/imatrix": ("llama-cpp", "llama-imatrix"),
    "llama-cpp/quantize": ("llama-cpp", "llama-quantize"),
    "llama-cpp/split": ("llama-cpp", "llama-gguf-split"),
    "llama-cpp/merge": ("llama-cpp", "llama-gguf-split"),
    "llama-cpp/perplexity": ("llama-cpp", "llama-perplexity"),
    "llama-cpp/kl-divergence": ("llama-cpp", "llama-perplexity"),
    "llama-cpp/complete": ("llama-cpp", "llama-completion"),
    "llama-cpp/chat": ("llama-cpp", "llama-cli"),
    "llama-cpp/bench": ("llama-cpp", "llama-bench"),
    "llama-cpp/serve": ("llama-cpp", "llama-server"),
}


def built(name: str) -> Path:
    """The realised image of this version; the test is skipped where it was not built here."""
    image = load_image(f"qwend_images:{name}", "cpu", None)
    place = cache_folder() / "images" / f"{name}-cpu-{image.digest[:12]}"
    if not (place / "bin").is_dir():
        pytest.skip(f"{place} is not built; the other end-to-end tests build it")
    return place


def flags(engine: Any) -> Iterator[str]:
    for field in engine.params.model_fields.values():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and str(extra.get("x-qwend-flag", "")).startswith("-"):
            yield str(extra["x-qwend-flag"])


@pytest.mark.parametrize("engine", list(qwend_engines()), ids=lambda engine: str(engine.name))
def test_every_flag_stands_in_the_help_of_its_tool(engine: Any) -> None:
    image, tool = TOOLS[engine.name]
    program = built(image) / "bin" / tool
    said = subprocess.run([str(program), "--help"], capture_output=True, text=True, check=False, timeout=300)
    known = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", said.stdout + said.stderr))
    assert len(known) > 4, f"{program} shows no help"
    assert [flag for flag in flags(engine) if flag not in known] == []


def test_every_engine_is_held_to_a_tool() -> None:
    assert TOOLS.keys() == {engine.name for engine in qwend_engines()}
