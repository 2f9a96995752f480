"""`llama-cpp/chat`: talk to a GGUF at the terminal, or ask it one question."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    Launch,
    LaunchFile,
    Params,
    StepView,
    Word,
    estimate,
    flag,
)
from qwend_plugins.llama_cpp import common
from qwend_plugins.llama_cpp.decoding import DecodingParams

_SAMPLING = ("temp", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "n_predict", "reasoning")


class ChatParams(DecodingParams):
    """Parameters of llama-cli, by its own names."""

    prompt: str | None = flag(
        "--prompt",
        None,
        description="ask this, print the answer, and leave",
        min_length=1,
        max_length=1 << 20,
    )
    system_prompt: str | None = flag(
        "--system-prompt", None, description="what the system says", min_length=1, max_length=1 << 20
    )
    context: int = flag("--ctx-size", 4096, description="tokens of the whole conversation", ge=64)
    n_predict: int | None = flag("--n-predict", None, description="most tokens of an answer", ge=1)
    temp: float | None = flag(
        "--temp", None, description="temperature; 0: always the likeliest token", ge=0, le=10
    )
    seed: int | None = flag(
        "--seed", None, description="seed of sampling; left out: another each time", ge=0, lt=2**32
    )
    reasoning: Literal["auto", "on", "off"] = flag(
        "--reasoning", "auto", description="whether a thinking model thinks before it answers"
    )
    chat_template: str | None = flag(
        "--chat-template", None, description="a Jinja template, or the name of a known one; left out: the model's",
        min_length=1,
    )  # fmt: skip
    chat_template_kwargs: dict[str, Any] = flag(
        "--chat-template-kwargs", {}, description="further variables of the chat template"
    )


class Chat:
    """Talks to a GGUF."""

    name: ClassVar[str] = "llama-cpp/chat"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "interactive"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "talks to a GGUF at the terminal, or asks it one question (llama-cli)"
    params: ClassVar[type[Params]] = ChatParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.COMPUTING

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, model = _params(step), step.inputs[0]
        trained = model.facts.context
        if trained is not None and params.context > trained:
            yield Finding(
                f"is beyond what {model.name} was trained for ({trained})", "with.context",
                "llama-cpp/serve stretches it with rope_scaling: yarn",
            )  # fmt: skip
        yield from common.no_layers(step, params.n_gpu_layers)
        if params.n_predict is not None and params.n_predict >= params.context:
            yield Finding(f"leaves no room for a question in a context of {params.context}", "with.n_predict")

    def product(self, step: StepView) -> None:
        return None

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.TOOLS, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, model = _params(step), step.inputs[0]
        need = estimate(model.facts, params.context)
        texts = {"prompt.txt": params.prompt, "system.txt": params.system_prompt}
        said = tuple(LaunchFile(name, text) for name, text in texts.items() if text is not None)
        return Launch(
            argv=(
                *(ImageRef("bin/python"), DriverRef("lc_chat.py")),
                *("--chat", ImageRef("bin/llama-cli"), "--once", ImageRef("bin/llama-completion")),
                *("--model", common.gguf(model)),
                *(
                    word
                    for file in said
                    for word in (f"--{file.name.removesuffix('.txt')}", DriverRef(file.name))
                ),
                "--",
                *("--ctx-size", str(params.context)),
                *common.flags(params, *_SAMPLING),
                *_template(params),
                *(() if step.flavour == "cpu" else common.offload(step, params.n_gpu_layers)),
                *("--threads", common.threads(params.threads)),
                *step.extra_args,
            ),
            files=(*common.drivers("lc_chat.py", "lc_common.py"), *said),
            resources=common.resources(
                step,
                None if need is None else need.total,
                params.n_gpu_layers,
                note="" if need is None else need.describe(),
            ),
            hints=common.TOOL_HINTS,
        )


def _template(params: ChatParams) -> Iterator[Word]:
    if params.chat_template is not None:
        yield from ("--chat-template", params.chat_template)
    if params.chat_template_kwargs:
        yield from ("--chat-template-kwargs", json.dumps(params.chat_template_kwargs, sort_keys=True))


def _params(step: StepView) -> ChatParams:
    assert isinstance(step.params, ChatParams)
    return step.params
