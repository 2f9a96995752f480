"""Batches: prompts in, answers out, resumed where they were. What `transformers/batch` and `vllm/batch` share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from qwend.plugin import (
    PREVIOUS,
    Facts,
    Given,
    InputRef,
    OutputRef,
    Params,
    Product,
    StepView,
    Word,
    reference,
)

DRIVERS = Path(__file__).parent / "drivers"

_SAMPLING = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed", "stop",
)  # fmt: skip


class BatchParams(Params):
    """What is asked, and how answers are sampled, in the words of OpenAI's API."""

    prompts: str = reference(
        "dataset/prompts",
        default=...,
        description="what is asked: texts, {prompt: …}, {messages: […]}, or requests of OpenAI's batch format",
    )
    column: str | None = Field(None, description="where the prompt stands in a row", min_length=1)
    system: str | None = Field(None, description="what the system says before each prompt", min_length=1)
    chat: bool = Field(True, description="ask as a user would; false: continue the prompts as they are")
    max_tokens: int = Field(512, description="most tokens of an answer", ge=1, le=2**20)
    temperature: float | None = Field(
        None, description="0 is greedy; left out: as the model's generation_config.json says", ge=0, le=2
    )
    top_p: float | None = Field(
        None, description="sample among the likeliest that make up so much", gt=0, le=1
    )
    top_k: int | None = Field(None, description="sample among so many", ge=1)
    min_p: float | None = Field(
        None, description="sample what is at least so likely as against the best", ge=0, le=1
    )
    repetition_penalty: float | None = Field(None, description="above 1 repeats less", gt=0, le=10)
    presence_penalty: float | None = Field(None, description="lowers what was said already", ge=-2, le=2)
    frequency_penalty: float | None = Field(
        None, description="lowers it each time that it was said", ge=-2, le=2
    )
    seed: int | None = Field(None, description="seed of sampling", ge=0)
    stop: tuple[str, ...] = Field((), description="texts that end an answer", max_length=16)


def sampling(params: BatchParams) -> dict[str, Any]:
    """The settings that every row has unless it brings its own, as a request of OpenAI's API says them."""
    said = {name: getattr(params, name) for name in _SAMPLING}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in said.items()
        if value not in (None, ())
    }


def identity(step: StepView, **more: Any) -> str:
    """What an answer depends on besides the prompt: model, adapter, settings. The same for the same, on any machine."""
    params = step.params
    assert isinstance(params, BatchParams)
    models = [
        _of(given) for given in (*step.inputs, *step.given.get("adapter", ()), *step.given.get("lora", ()))
    ]
    said = {"models": models, "sampling": sampling(params), "extra_args": step.extra_args, **more}
    return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _of(given: Given) -> Any:
    """A source by its pin, what a step makes by its engine, parameters and inputs."""
    if given.pin is not None and given.pin.identity:
        return given.pin.identity
    return [given.engine, given.params, [_of(one) for one in given.lineage]]


def batch_words(step: StepView, params: BatchParams, **more: Any) -> Iterator[Word]:
    """The words that both drivers take; `more` goes into the identity."""
    (prompts,) = step.given["prompts"]
    yield from ("--prompts", InputRef(prompts.name), "--out", OutputRef(), "--before", InputRef(PREVIOUS))
    yield from ("--identity", identity(step, **more), "--name", step.inputs[0].name)
    yield from ("--sampling", json.dumps(sampling(params), sort_keys=True, ensure_ascii=False))
    if not params.chat:
        yield "--no-chat"
    if params.system is not None:
        yield from ("--system", params.system)
    if params.column is not None:
        yield from ("--column", params.column)


def product(step: StepView) -> Product:
    """Results in the rows' order."""
    (prompts,) = step.given["prompts"]
    return Product("results/jsonl", Facts(rows=prompts.facts.rows))
