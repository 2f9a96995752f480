"""`mlx/generate`: answers a batch of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    LaunchFile,
    Params,
    Product,
    StepView,
    Word,
    flag,
)
from qwend_plugins.mlx import common
from qwend_plugins.serving import BatchParams, answering, batch_words
from qwend_plugins.serving.batches import product

TEMPLATE = "chat_template.jinja"
_FILES = (
    "mlx_generate.py",
    "mlx_start.py",
    "batch_rows.py",
    "batch_results.py",
    "openai_requests.py",
    "answer_text.py",
)


class GenerateParams(BatchParams):
    """What is asked, and how answers are sampled."""

    chat_template: str | None = Field(
        None, description="a Jinja template in place of the model's own", min_length=1, max_length=262_144
    )
    chat_template_args: dict[str, Any] = flag(
        "--chat-template-args", {}, description="arguments for the template: {enable_thinking: false}"
    )
    max_kv_size: int | None = flag(
        "--max-kv-size", None, description="tokens that the cache keeps; older ones are forgotten", ge=64
    )


class Generate:
    """Answers a batch of prompts with MLX."""

    name: ClassVar[str] = "mlx/generate"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "answers a batch of prompts with MLX, resumed where it was"
    params: ClassVar[type[Params]] = GenerateParams
    accepts: ClassVar[tuple[str, ...]] = common.MODELS
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, facts = _params(step), step.inputs[0].facts
        yield from common.machine_findings(step, host)
        yield from common.model_findings(step)
        if facts.context is not None and params.max_tokens >= facts.context:
            yield Finding(
                f"answers of {params.max_tokens} tokens fill the context of {facts.context}",
                "with.max_tokens",
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
        context = min(common.DEFAULT_CONTEXT, step.inputs[0].facts.context or common.DEFAULT_CONTEXT)
        template = () if params.chat_template is None else (LaunchFile(TEMPLATE, params.chat_template),)
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("mlx_generate.py"), *_words(step, params)),
            env=common.environment(step),
            files=(*common.files(*_FILES), *template),
            resumable=True,
            resources=answering(step, context, library=common.LIBRARIES),
            hints=common.HINTS,
        )


def _words(step: StepView, params: GenerateParams) -> Iterator[Word]:
    yield from ("--model", InputRef(step.inputs[0].name))
    loaded = {
        "template": params.chat_template,
        "template_args": params.chat_template_args,
        "kv": params.max_kv_size,
    }
    yield from batch_words(step, params, **loaded)
    if params.chat_template is not None:
        yield from ("--template-file", DriverRef(TEMPLATE))
    if params.chat_template_args:
        said = json.dumps(params.chat_template_args, sort_keys=True, ensure_ascii=False)
        yield from ("--chat-template-args", said)
    if params.max_kv_size is not None:
        yield from ("--max-kv-size", str(params.max_kv_size))
    if step.trust_remote_code:
        yield "--trust-remote-code"


def _params(step: StepView) -> GenerateParams:
    assert isinstance(step.params, GenerateParams)
    return step.params
