"""`llama-cpp/imatrix`: which weights matter, learnt from a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from qwend.plugin import Facts, Finding, Host, Image, Launch, Params, Product, StepView, flag
from qwend_plugins.llama_cpp import common, measuring


class ImatrixParams(measuring.TextParams):
    """Parameters of llama-imatrix, by its own names."""

    process_output: bool = flag(
        "--process-output", False, description="collect data for the output tensor too"
    )
    parse_special: bool = flag(
        "--parse-special", False, description="special tokens in the text (<|im_start|>) count as such"
    )
    from_chunk: int | None = flag("--chunk", None, description="begin with this window", ge=0)
    no_ppl: bool = flag("--no-ppl", False, description="measure no perplexity on the way: a little faster")


class Imatrix:
    """Learns the importance of weights."""

    name: ClassVar[str] = "llama-cpp/imatrix"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "learns from a text which weights matter, for llama-cpp/quantize (llama-imatrix)"
    params: ClassVar[type[Params]] = ImatrixParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.COMPUTING

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _params(step)
        yield from measuring.text_findings(step)
        if params.chunks is not None and params.chunks < 10:
            yield Finding(
                f"{params.chunks} windows tell little about the weights; 100 are usual",
                "with.chunks",
                level="warning",
            )
        bits = step.inputs[0].facts.bits
        if bits is not None and bits < 8:
            yield Finding(
                f"{step.inputs[0].name} is quantised already ({bits:g} bits per weight): a matrix from the "
                "unquantised model is better",
                "from",
                level="warning",
            )

    def product(self, step: StepView) -> Product:
        return Product("imatrix/gguf", Facts(architecture=step.inputs[0].facts.architecture))

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.TOOLS, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        words = list(common.flags(_params(step), "process_output", "parse_special", "from_chunk", "no_ppl"))
        return measuring.text_launch(step, "imatrix", "llama-imatrix", *words)


def _params(step: StepView) -> ImatrixParams:
    assert isinstance(step.params, ImatrixParams)
    return step.params
