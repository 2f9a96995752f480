"""What the engines of Ollama share: what a recipe may say of a model, checks, the image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from qwend.plugin import (
    Facts,
    Finding,
    Given,
    Image,
    LaunchFile,
    LogHint,
    Params,
    StepView,
    driver,
    load_image,
)

DRIVERS = Path(__file__).parent / "drivers"
FLAVOURS = ("cpu", "apple")
FIRST: dict[str, tuple[str, ...]] = {"adapter/lora": ("llama-factory/export", "mlx/fuse")}
"""What merges an adapter before Ollama gets the model: it takes none (`ADAPTER`) for Qwen."""
WANTED = "wanted.json"
COMPOSING = (
    "compose.py",
    "modelfile.py",
    "go_chat.py",
    "go_template.py",
    "go_functions.py",
    "gguf_meta.py",
    "ollama_start.py",
)
"""Drivers that compose a Modelfile."""
DEFAULT_CONTEXT = 8192

ARCHITECTURES = frozenset(
    (
        *("qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen25vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe"),
        *("qwen3next", "qwen35", "qwen35moe", "llama", "llama4", "mllama", "mistral3", "gemma", "gemma2"),
        *("gemma3", "gemma3n", "phi2", "phi3", "command-r", "cohere2", "starcoder2", "stablelm", "falcon"),
        *("deepseek", "deepseek2", "glm4", "glm4moe", "gpt-oss", "gptoss", "granite", "granitemoe", "olmo2"),
        *("bert", "nomic-bert", "lfm2", "smollm3"),
    )
)
"""General architectures of GGUF files that Ollama loads, among those of its library and of llama.cpp beneath it."""
CHECKPOINTS = frozenset(
    {"qwen2", "qwen3", "qwen3_moe", "llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "phi3"}
)
"""Values of model_type that Ollama's own converter takes as safetensors."""

_WHOLE = frozenset(
    (
        *("num_ctx", "num_batch", "num_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k"),
        *("repeat_last_n", "main_gpu", "draft_num_predict"),
    )
)
_REAL = frozenset(
    ["temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"]
)
_SWITCHES = frozenset({"use_mmap"})
_TEXTS = frozenset({"stop"})
PARAMETERS = _WHOLE | _REAL | _SWITCHES | _TEXTS

HINTS = (
    LogHint(r"No space left on device", "the disk is full", "qwend store prune frees what nothing refers to"),
)


class Said(BaseModel):
    """One message of the history that a model begins with."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    role: Literal["system", "user", "assistant"] = Field(description="who says it")
    content: str = Field(description="what is said", min_length=1)


class ModelParams(Params):
    """What a Modelfile says, by Ollama's own names."""

    system: str | None = Field(
        None, description="what the system says (SYSTEM)", min_length=1, max_length=65_536
    )
    template: str | None = Field(
        None, description="a Go template (TEMPLATE); left out: made of the model's own, and compared with it",
        min_length=1, max_length=262_144,
    )  # fmt: skip
    parameters: dict[str, int | float | bool | str | tuple[str, ...]] = Field(
        {}, description="over those of generation_config.json: {num_ctx: 8192, temperature: 0.6, stop: [END]}"
    )
    license: str | None = Field(
        None, description="the licence's text; left out: the model's own", min_length=1
    )
    messages: tuple[Said, ...] = Field(
        (), description="a history that every conversation begins with (MESSAGE)"
    )


def image(step: StepView) -> Image:
    """Pure Python for every platform, a Mac included: one flavour."""
    return load_image("qwend_images:ollama", "cpu")


def files(*names: str) -> tuple[LaunchFile, ...]:
    return tuple(driver(DRIVERS / name) for name in names)


def wanted(params: ModelParams, facts: Facts, kind: str = "model/gguf") -> LaunchFile:
    """What the recipe says, as a file; `num_ctx` is told of a model of ours, since Ollama's default would cut prompts
    silently. A user's Modelfile and a model of Ollama's library say theirs."""
    context = min(DEFAULT_CONTEXT, facts.context or DEFAULT_CONTEXT)
    said: dict[str, Any] = params.model_dump(mode="json", include=set(ModelParams.model_fields))
    if kind != "model/ollama":
        said["parameters"] = {"num_ctx": context, **said["parameters"]}
    return LaunchFile(WANTED, json.dumps(said, ensure_ascii=False, sort_keys=True, indent=1) + "\n")


def findings(params: ModelParams, model: Given) -> Iterator[Finding]:
    """What is wrong with what is said, and with the model for Ollama."""
    yield from _parameters(params, model.facts)
    for name in ("system", "template", "license"):
        text = getattr(params, name)
        if text is not None and ('"""' in text or text.endswith('"')):
            yield Finding('a Modelfile has no escape for """, or for a " at the end', f"with.{name}")
    kind = model.facts.architecture
    if kind is None:
        return
    if model.type == "model/gguf" and kind not in ARCHITECTURES:
        yield Finding(f"Ollama does not load the architecture {kind}", "from", "llama-cpp/serve may")
    if model.type == "model/safetensors" and kind not in CHECKPOINTS:
        yield Finding(
            f"Ollama's converter does not take the architecture {kind}",
            "from",
            "insert llama-cpp/convert: a GGUF of it may load",
        )


def _parameters(params: ModelParams, facts: Facts) -> Iterator[Finding]:
    for name, value in params.parameters.items():
        key = f"with.parameters.{name}"
        if name not in PARAMETERS:
            yield Finding(f"Ollama has no parameter {name}", key, f"it has {', '.join(sorted(PARAMETERS))}")
        elif name in _WHOLE and type(value) is not int:
            yield Finding(f"{name} takes a whole number", key)
        elif name in _REAL and type(value) not in (int, float):
            yield Finding(f"{name} takes a number", key)
        elif name in _SWITCHES and type(value) is not bool:
            yield Finding(f"{name} is true or false", key)
        elif name in _TEXTS and not isinstance(value, str | tuple):
            yield Finding(f"{name} takes a text or several", key)
    context = params.parameters.get("num_ctx")
    if type(context) is int and facts.context is not None and context > facts.context:
        yield Finding(
            f"a context of {context} is beyond what the model was trained for ({facts.context})",
            "with.parameters.num_ctx",
            level="warning",
        )


_NAME = re.compile(
    r"(?:[a-z0-9][a-z0-9._-]{0,79}/){0,2}[a-z0-9][a-z0-9._-]{0,79}(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,79})?"
)


def name_problem(name: str) -> str | None:
    """What is wrong with a model's name on a server: Ollama's rules, and lower case, which every file system keeps."""
    if _NAME.fullmatch(name):
        return None
    return "a name has lower-case letters, digits, '.', '_' and '-', as in mine, user/mine or mine:q4"
