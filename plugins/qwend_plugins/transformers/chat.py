"""`transformers/chat`: talk to a checkpoint at the terminal, without a server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from qwend.plugin import DriverRef, Finding, Host, Image, ImageRef, Launch, Params, StepView, Word
from qwend_plugins.transformers import common

_FILES = (
    "tf_chat.py",
    "hf_generate.py",
    "tf_load.py",
    "hf_packed.py",
    "openai_requests.py",
    "answer_text.py",
)
_SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")


class ChatParams(common.LoadParams):
    """How a checkpoint is loaded, and how it answers."""

    system: str | None = Field(None, description="what the system says", min_length=1)
    prompt: str | None = Field(None, description="ask this, print the answer, and leave", min_length=1)
    max_tokens: int | None = Field(None, description="most tokens of an answer", ge=1)
    temperature: float | None = Field(None, description="0 is greedy; left out: the model's own", ge=0, le=2)
    top_p: float | None = Field(
        None, description="sample among the likeliest that make up so much", gt=0, le=1
    )
    top_k: int | None = Field(None, description="sample among so many", ge=1)
    repetition_penalty: float | None = Field(None, description="above 1 repeats less", gt=0, le=10)
    seed: int | None = Field(None, description="seed of sampling", ge=0)


class Chat:
    """Talks to a checkpoint."""

    name: ClassVar[str] = "transformers/chat"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "interactive"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "talks to a checkpoint at the terminal: streamed, many turns, a system prompt"
    params: ClassVar[type[Params]] = ChatParams
    accepts: ClassVar[tuple[str, ...]] = common.MODELS
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        yield from common.load_findings(step, _params(step))
        if step.extra_args:
            yield Finding("there are no further arguments: all of them are parameters", "extra_args")

    def product(self, step: StepView) -> None:
        return None

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("tf_chat.py"), *_words(step, params)),
            files=common.files(params, *_FILES),
            resources=common.resources(step, params),
            hints=common.HINTS,
        )


def _words(step: StepView, params: ChatParams) -> Iterator[Word]:
    yield from common.load_words(step, params)
    sampling: dict[str, Any] = {name: getattr(params, name) for name in _SAMPLING}
    known = {name: value for name, value in sampling.items() if value is not None}
    for flag, said in (("--sampling", known), ("--chat-template-kwargs", params.chat_template_kwargs)):
        if said:
            yield from (flag, json.dumps(said, sort_keys=True, ensure_ascii=False))
    for flag, text in (("--system", params.system), ("--prompt", params.prompt)):
        if text is not None:
            yield from (flag, text)


def _params(step: StepView) -> ChatParams:
    assert isinstance(step.params, ChatParams)
    return step.params
