"""`llama-cpp/perplexity` and `llama-cpp/kl-divergence`: how well a model predicts a text, alone and beside another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from qwend.plugin import Finding, Host, Image, Launch, Params, Product, StepView, flag
from qwend_plugins.llama_cpp import common, measuring


class PerplexityParams(measuring.TextParams):
    """Parameters of llama-perplexity, by its own names."""

    ppl_stride: int | None = flag(
        "--ppl-stride", None, description="windows overlap and begin so many tokens apart", ge=1
    )


class Perplexity:
    """Measures how well models predict a text."""

    name: ClassVar[str] = "llama-cpp/perplexity"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "measures how well GGUF models predict a text (llama-perplexity)"
    params: ClassVar[type[Params]] = PerplexityParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = True
    flavours: ClassVar[tuple[str, ...]] = common.COMPUTING

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = step.params
        yield from measuring.text_findings(step)
        if params.ppl_stride is not None and params.ppl_stride > params.context:
            yield Finding(
                f"is more than a window ({params.context}): text would be left out", "with.ppl_stride"
            )

    def product(self, step: StepView) -> Product:
        return Product("report")

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.TOOLS, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        words = tuple(common.flags(step.params, "ppl_stride"))
        return measuring.text_launch(step, "perplexity", "llama-perplexity", *words)


class KlDivergenceParams(measuring.TextParams):
    """Parameters of llama-perplexity --kl-divergence, by its own names."""


class KlDivergence:
    """Measures how far the predictions of models are from those of a reference."""

    name: ClassVar[str] = "llama-cpp/kl-divergence"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "measures how far GGUF models predict from the first one (llama-perplexity --kl-divergence)"
    )
    params: ClassVar[type[Params]] = KlDivergenceParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = True
    flavours: ClassVar[tuple[str, ...]] = common.COMPUTING

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        yield from measuring.text_findings(step)
        yield from measuring.same_vocabulary(step)
        if len(step.inputs) < 2:
            yield Finding(
                "there is one model; the first is the reference that others are held against",
                "from",
                "from: [f16, quant]",
            )

    def product(self, step: StepView) -> Product:
        return Product("report")

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.TOOLS, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        disk = measuring.logits_bytes(step)
        return measuring.text_launch(step, "kl-divergence", "llama-perplexity", disk=disk)
