"""`vllm/batch`: answers a batch of prompts with vLLM's engine, hundreds at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    Params,
    Product,
    StepView,
    Word,
    reference,
)
from qwend_plugins.serving import BatchParams, adapter_findings, batch_words
from qwend_plugins.serving.batches import product
from qwend_plugins.vllm import checks, common
from qwend_plugins.vllm.params import EngineParams

_FILES = (
    "vllm_batch.py",
    "vllm_start.py",
    "batch_rows.py",
    "batch_results.py",
    "openai_requests.py",
    "answer_text.py",
)


class VllmBatchParams(EngineParams, BatchParams):
    """What vLLM's engine is told, what is asked, and how answers are sampled."""

    adapter: str | None = reference("adapter/lora", description="a LoRA adapter, applied without merging")


class Batch:
    """Answers a batch of prompts."""

    name: ClassVar[str] = "vllm/batch"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "answers a batch of prompts, hundreds at once, resumed where it was (vLLM)"
    params: ClassVar[type[Params]] = VllmBatchParams
    accepts: ClassVar[tuple[str, ...]] = common.MODELS
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _params(step)
        yield from checks.engine_findings(step, host, params)
        yield from adapter_findings(step.inputs[0], step.given.get("adapter", ()), "with.adapter")
        context = common.context(step, params)
        if context is not None and params.max_tokens >= context:
            yield Finding(
                f"answers of {params.max_tokens} tokens fill the context of {context}", "with.max_tokens"
            )
        if params.system is not None and not params.chat:
            yield Finding("chat: false continues texts, where no system speaks", "with.system")
        if params.data_parallel_size > 1:
            yield Finding(
                "one engine answers a batch",
                "with.data_parallel_size",
                "several copies: several steps, each with its part of the prompts",
            )

    def product(self, step: StepView) -> Product:
        return product(step)

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("vllm_batch.py"), *_words(step, params)),
            env=common.environment(step, params),
            files=common.files(params, *_FILES),
            resumable=True,
            resources=common.resources(step, params, step.given.get("adapter", ())),
            hints=common.HINTS,
            shm=common.shared_memory(step),
        )


def _words(step: StepView, params: VllmBatchParams) -> Iterator[Word]:
    """The driver's own words, then `--` and vLLM's."""
    settings = {
        "dtype": params.dtype,
        "quantization": params.quantization,
        "cache": params.kv_cache_dtype,
        "template": params.chat_template,
        "template_kwargs": params.chat_template_kwargs,
        "rope": None if params.rope_scaling is None else params.rope_scaling.model_dump(),
        "defaults": params.generation_config,
    }
    yield from batch_words(step, params, **settings)
    for adapter in step.given.get("adapter", ()):
        yield from ("--adapter", InputRef(adapter.name))
    yield from common.template_words(params)
    if params.chat_template_kwargs:
        said = json.dumps(params.chat_template_kwargs, sort_keys=True, ensure_ascii=False)
        yield from ("--chat-template-kwargs", said)
    yield from ("--", "--model", InputRef(step.inputs[0].name))
    yield from common.engine_words(step, params)
    if step.given.get("adapter"):
        yield "--enable-lora"
    yield from step.extra_args


def _params(step: StepView) -> VllmBatchParams:
    assert isinstance(step.params, VllmBatchParams)
    return step.params
