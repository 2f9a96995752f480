"""`llama-cpp/complete`: a model goes on from a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from qwend.plugin import (
    DriverRef,
    Facts,
    Finding,
    Host,
    Image,
    ImageRef,
    Launch,
    LaunchFile,
    OutputRef,
    Params,
    Product,
    StepView,
    estimate,
    flag,
)
from qwend_plugins.llama_cpp import common
from qwend_plugins.llama_cpp.decoding import DecodingParams


class CompleteParams(DecodingParams):
    """Parameters of llama-completion, by its own names."""

    prompt: str = flag(
        "--file", description="the text to go on from, as it is: no chat template", min_length=1, max_length=1 << 20,
        examples=["Once upon a time"],
    )  # fmt: skip
    n_predict: int = flag("--n-predict", 128, description="most tokens to write", ge=1)
    context: int = flag("--ctx-size", 4096, description="tokens of prompt and completion together", ge=64)
    temp: float = flag("--temp", 0.0, description="temperature; 0: always the likeliest token", ge=0, le=10)
    seed: int = flag("--seed", 42, description="seed of sampling", ge=0, lt=2**32)
    ignore_eos: bool = flag("--ignore-eos", False, description="go on after the end of the text")
    grammar: str | None = flag("--grammar", None, description="a GBNF grammar that the completion keeps")


class Complete:
    """Completes a text."""

    name: ClassVar[str] = "llama-cpp/complete"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "lets a GGUF go on from a text, without a chat template (llama-completion)"
    params: ClassVar[type[Params]] = CompleteParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.COMPUTING

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, model = _params(step), step.inputs[0]
        trained = model.facts.context
        if trained is not None and params.context > trained:
            yield Finding(f"is beyond what {model.name} was trained for ({trained})", "with.context")
        if params.n_predict >= params.context:
            yield Finding(f"leaves no room for the prompt in a context of {params.context}", "with.n_predict")
        yield from common.no_layers(step, params.n_gpu_layers)

    def product(self, step: StepView) -> Product:
        return Product("results/jsonl", Facts(rows=1))

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.TOOLS, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, model = _params(step), step.inputs[0]
        need = estimate(model.facts, params.context)
        sampling = ("top_k", "top_p", "min_p", "repeat_penalty", "ignore_eos", "grammar")
        return Launch(
            argv=(
                ImageRef("bin/python"),
                DriverRef("lc_complete.py"),
                "--tool",
                ImageRef("bin/llama-completion"),
                "--model",
                common.gguf(model),
                "--prompt",
                DriverRef("prompt.txt"),
                "--out",
                OutputRef(),
                "--",
                *("--n-predict", str(params.n_predict), "--ctx-size", str(params.context)),
                *("--temp", str(params.temp), "--seed", str(params.seed)),
                *common.flags(params, *sampling),
                *common.offload(step, params.n_gpu_layers),
                *("--threads", common.threads(params.threads)),
                *step.extra_args,
            ),
            files=(
                *common.drivers("lc_complete.py", "lc_common.py"),
                LaunchFile("prompt.txt", params.prompt),
            ),
            resources=common.resources(
                step,
                None if need is None else need.total,
                params.n_gpu_layers,
                note="" if need is None else need.describe(),
            ),
            hints=common.TOOL_HINTS,
        )


def _params(step: StepView) -> CompleteParams:
    assert isinstance(step.params, CompleteParams)
    return step.params
