"""`transformers/batch`: answers a batch of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from pydantic import Field

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    Launch,
    Params,
    Product,
    StepView,
    Word,
)
from qwend_plugins.serving import BatchParams, batch_words
from qwend_plugins.serving.batches import product
from qwend_plugins.transformers import common

_FILES = (
    "tf_batch.py",
    "hf_generate.py",
    "tf_load.py",
    "hf_packed.py",
    "batch_rows.py",
    "batch_results.py",
    "openai_requests.py",
    "answer_text.py",
)


class TransformersBatchParams(common.LoadParams, BatchParams):
    """How a checkpoint is loaded, what is asked, and how answers are sampled."""

    batch_size: int = Field(
        8,
        description="prompts answered at once; halved where memory ends",
        ge=1,
        le=4096,
        json_schema_extra={"x-qwend-fingerprint": False},
    )


class Batch:
    """Answers a batch of prompts."""

    name: ClassVar[str] = "transformers/batch"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "answers a batch of prompts, resumed where it was; only new prompts are asked"
    params: ClassVar[type[Params]] = TransformersBatchParams
    accepts: ClassVar[tuple[str, ...]] = common.MODELS
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _params(step)
        yield from common.load_findings(step, params)
        context = params.context or step.inputs[0].facts.context
        if context is not None and params.max_tokens >= context:
            yield Finding(
                f"answers of {params.max_tokens} tokens fill the context of {context}", "with.max_tokens"
            )
        if params.system is not None and not params.chat:
            yield Finding("chat: false continues texts, where no system speaks", "with.system")
        if step.extra_args:
            yield Finding("there are no further arguments: all of them are parameters", "extra_args")

    def product(self, step: StepView) -> Product:
        return product(step)

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("tf_batch.py"), *_words(step, params)),
            files=common.files(params, *_FILES),
            resumable=True,
            resources=common.resources(step, params, params.batch_size),
            hints=common.HINTS,
        )


def _words(step: StepView, params: TransformersBatchParams) -> Iterator[Word]:
    yield from common.load_words(step, params)
    loaded = {
        "dtype": params.dtype,
        "template": params.chat_template,
        "template_kwargs": params.chat_template_kwargs,
        "attention": params.attn_implementation,
    }
    yield from batch_words(step, params, **loaded)
    yield from ("--batch-size", str(params.batch_size))
    if params.chat_template_kwargs:
        said = json.dumps(params.chat_template_kwargs, sort_keys=True, ensure_ascii=False)
        yield from ("--chat-template-kwargs", said)


def _params(step: StepView) -> TransformersBatchParams:
    assert isinstance(step.params, TransformersBatchParams)
    return step.params
