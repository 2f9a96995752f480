"""`transformers/serve`: a checkpoint behind OpenAI's API, with transformers itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from qwend.plugin import (
    BindRef,
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    Launch,
    Params,
    PortRef,
    SecretRef,
    StepView,
    Word,
    flag,
)
from qwend_plugins.serving import API_KEY, chat_probe, flags
from qwend_plugins.transformers import common

_FILES = (
    "tf_serve.py", "tf_load.py", "hf_packed.py", "openai_http.py", "openai_worker.py", "openai_shapes.py",
    "openai_requests.py", "hf_generate.py", "answer_text.py",
)  # fmt: skip


class ServeParams(common.LoadParams):
    """How a checkpoint is loaded and served."""

    served_model_name: tuple[str, ...] = flag(
        "--name", (), description="more names under which the model answers, besides the step's"
    )
    reasoning: bool = flag(
        "--reasoning", False, description="give what stands in <think> as reasoning_content (Qwen3)"
    )
    max_waiting: int = flag(
        "--max-waiting",
        256,
        description="requests that may wait for their turn",
        fingerprint=False,
        ge=1,
        le=65536,
    )


class Serve:
    """Serves a checkpoint."""

    name: ClassVar[str] = "transformers/serve"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "service"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "serves a checkpoint, with or without a LoRA adapter, over an OpenAI-compatible API"
    )
    params: ClassVar[type[Params]] = ServeParams
    accepts: ClassVar[tuple[str, ...]] = common.MODELS
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        yield from common.load_findings(step, _params(step))
        if step.extra_args:
            yield Finding("this server has no further arguments: all of them are parameters", "extra_args")

    def product(self, step: StepView) -> None:
        return None

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("tf_serve.py"), *_words(step, params)),
            files=common.files(params, *_FILES),
            secrets=(API_KEY,) if API_KEY in step.secrets else (),
            resources=common.resources(step, params),
            probe=chat_probe(step.name, deadline_s=240.0),
            hints=common.HINTS,
            port_taken_exit=98,
            api="openai",
        )


def _words(step: StepView, params: ServeParams) -> Iterator[Word]:
    yield from common.load_words(step, params)
    yield from ("--host", BindRef(), "--port", PortRef())
    for name in (step.name, *params.served_model_name):
        yield from ("--name", name)
    yield from flags(params, "reasoning", "max_waiting", "chat_template_kwargs")
    if API_KEY in step.secrets:
        yield from ("--api-key-file", SecretRef(API_KEY))


def _params(step: StepView) -> ServeParams:
    assert isinstance(step.params, ServeParams)
    return step.params
