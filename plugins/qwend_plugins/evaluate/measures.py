"""`evaluate/perplexity`, `/kl-divergence`, `/speed` and `/golden`: one model, one kind of figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from qwend.plugin import Finding, Given, Host, Image, InputRef, Launch, Params, Product, StepView, Word
from qwend_plugins.evaluate import common
from qwend_plugins.evaluate.params import (
    GoldenOnly,
    GoldenParams,
    KlDivergenceParams,
    PerplexityParams,
    SpeedOnly,
    SpeedParams,
    TextParams,
)

SIZES = ("size", "bits_per_weight")


class _Measure:
    """What these engines have in common."""

    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    accepts: ClassVar[tuple[str, ...]] = common.MODELS
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def product(self, step: StepView) -> Product:
        return Product("report")

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step, step.inputs)


class Perplexity(_Measure):
    """How well a model foretells a text."""

    name: ClassVar[str] = "evaluate/perplexity"
    summary: ClassVar[str] = "How well a model foretells a text: the same windows for every format"
    params: ClassVar[type[Params]] = PerplexityParams
    many: ClassVar[bool] = False

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _perplexity(step)
        yield from common.placed(step, step.inputs)
        yield from common.one_text(step.given["text"][0], step.inputs, params.same_text)
        yield from context_findings(step, params.context)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _perplexity(step)
        words: list[Word] = [*text_words(step, params)]
        disk = None
        if params.save_logits:
            words.append("--save-logits")
            disk = common.logits_bytes(step.inputs, params.context, params.chunks)
        return common.launch(
            step, step.inputs, ("perplexity",), words,
            dtype=params.dtype, threads=params.threads, context=params.context, disk=disk,
        )  # fmt: skip

    def metrics(self, step: StepView) -> Iterable[str]:
        return about(step, (*SIZES, *common.QUALITY))


class KlDivergence(_Measure):
    """How far a model's predictions are from another's."""

    name: ClassVar[str] = "evaluate/kl-divergence"
    summary: ClassVar[str] = "How far a model's predictions are from a reference's, token by token"
    params: ClassVar[type[Params]] = KlDivergenceParams
    many: ClassVar[bool] = False

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, base = _divergence(step), step.given["reference"][0]
        if base.type == "report":
            yield from common.placed(step, step.inputs)
            if base.engine != "evaluate/perplexity" or not base.params.get("save_logits"):
                yield Finding(
                    f"{base.name} keeps no logits",
                    "with.reference",
                    "evaluate/perplexity with save_logits: true does",
                )
            elif base.params.get("context", params.context) != params.context:
                yield Finding(
                    f"{base.name} was measured with a context of {base.params['context']}",
                    "with.context",
                    "say the same here",
                )
            texts = [one for one in base.lineage if one.type == "dataset/text"]
        else:
            yield from common.placed(step, (base, *step.inputs), "with.reference")
            if params.text is None:
                yield Finding("is required: there is nothing to measure on", "with.text", "name a text")
            texts = list(step.given.get("text", ()))
        for text in texts:
            yield from common.one_text(text, step.inputs, params.same_text)
        yield from context_findings(step, params.context)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, base = _divergence(step), step.given["reference"][0]
        told = base.type == "report"
        models = step.inputs if told else (base, *step.inputs)
        words: list[Word] = ["--context", str(params.context)] if told else [*text_words(step, params)]
        if told:
            words += ["--base", InputRef(base.name)]
        return common.launch(
            step, models, ("perplexity", "kl_divergence"), words,
            dtype=params.dtype, threads=params.threads, context=params.context,
            disk=None if told else common.logits_bytes(models, params.context, params.chunks),
        )  # fmt: skip

    def metrics(self, step: StepView) -> Iterable[str]:
        base = step.given["reference"][0]
        yield from about(step, (*SIZES, *common.QUALITY, *common.APART))
        if base.type != "report":
            yield from of((base,), (*SIZES, *common.QUALITY))


class Speed(_Measure):
    """How fast a model reads and writes, and what memory that takes."""

    name: ClassVar[str] = "evaluate/speed"
    summary: ClassVar[str] = (
        "How fast a model reads and writes, over lengths and batches, and what memory it takes"
    )
    params: ClassVar[type[Params]] = SpeedOnly
    many: ClassVar[bool] = False

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _speed(step)
        yield from common.placed(step, step.inputs)
        yield from speed_findings(step, params)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _speed(step)
        return common.launch(
            step, step.inputs, ("speed",), speed_words(step, params),
            dtype=params.dtype, threads=params.threads, context=speed_context(step, params),
        )  # fmt: skip

    def metrics(self, step: StepView) -> Iterable[str]:
        return about(step, (*SIZES, *speed_names(step, _speed(step))))


class Golden(_Measure):
    """What a model answers to fixed prompts, and whether a change kept it."""

    name: ClassVar[str] = "evaluate/golden"
    summary: ClassVar[str] = (
        "Answers to fixed prompts before and after a change: the first token that differs"
    )
    params: ClassVar[type[Params]] = GoldenOnly
    many: ClassVar[bool] = True

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        yield from common.placed(step, step.inputs)
        yield from template_findings(step, _golden(step))
        for before in step.given.get("reference", ()):
            if before.engine != "evaluate/golden":
                yield Finding(f"{before.name} keeps no answers", "with.reference", "evaluate/golden does")

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _golden(step)
        words: list[Word] = [*golden_words(step, params)]
        for before in step.given.get("reference", ()):
            words += ["--before", InputRef(before.name)]
        return common.launch(
            step, step.inputs, ("golden",), words, dtype=params.dtype, threads=params.threads, context=4096
        )

    def metrics(self, step: StepView) -> Iterable[str]:
        if step.given.get("reference"):
            yield from about(step, (*SIZES, *common.ANSWERED))
        else:
            yield from about(step, SIZES)
            yield from of(step.inputs[1:], common.ANSWERED)


def about(step: StepView, names: Iterable[str]) -> Iterator[str]:
    """Figures of the step's models; where there is but one, by their own names, too."""
    kept = tuple(names)
    if len(step.inputs) == 1:
        yield from kept
    yield from of(step.inputs, kept)


def of(models: Iterable[Given], names: Iterable[str]) -> Iterator[str]:
    """`f16.perplexity` of each model and figure."""
    kept = tuple(names)
    for model in models:
        yield from (f"{model.name}.{name}" for name in kept)


def text_words(step: StepView, params: TextParams) -> Iterator[Word]:
    """The options of perplexity."""
    yield from ("--text", InputRef(step.given["text"][0].name), "--context", str(params.context))
    if params.chunks is not None:
        yield from ("--chunks", str(params.chunks))


def context_findings(step: StepView, context: int) -> Iterator[Finding]:
    for model in step.inputs:
        if model.facts.context and context > model.facts.context:
            yield Finding(
                f"a context of {context} is beyond what {model.name} was trained for ({model.facts.context})",
                "with.context",
            )


def lengths(step: StepView, params: SpeedParams) -> tuple[int, ...]:
    """The lengths of prompts: the recipe's, or what suits the device, as far as every model's context goes."""
    if params.input_lengths:
        return params.input_lengths
    usual = (1, 512, 2048) if step.flavour == "cpu" else (1, 6144, 14336, 30720)
    most = min((model.facts.context for model in step.inputs if model.facts.context), default=usual[-1] * 2)
    return tuple(length for length in usual if length + params.generate <= most) or (1,)


def speed_context(step: StepView, params: SpeedParams) -> int:
    """Tokens of all prompts and answers at once."""
    return (max(lengths(step, params)) + params.generate) * max(params.batch_sizes)


def speed_findings(step: StepView, params: SpeedParams) -> Iterator[Finding]:
    for model in step.inputs:
        most = max(lengths(step, params)) + params.generate
        if model.facts.context and most > model.facts.context:
            yield Finding(
                f"{most} tokens are beyond what {model.name} was trained for ({model.facts.context})",
                "with.input_lengths",
            )


def speed_words(step: StepView, params: SpeedParams) -> Iterator[Word]:
    """The options of speed."""
    for length in lengths(step, params):
        yield from ("--input-length", str(length))
    for batch in params.batch_sizes:
        yield from ("--batch-size", str(batch))
    yield from ("--generate", str(params.generate), "--repeats", str(params.repeats))


def speed_names(step: StepView, params: SpeedParams) -> Iterator[str]:
    """The figures of speed, as the driver names them."""
    timed = ("generation_speed", "prompt_speed", "time_to_first_token")
    yield from (*timed, "peak_memory")
    for length in lengths(step, params):
        for batch in params.batch_sizes:
            at = str(length) if batch == 1 else f"{length}x{batch}"
            yield from (f"{name}_at_{at}" for name in timed)


def template_findings(step: StepView, params: GoldenParams) -> Iterator[Finding]:
    for model in step.inputs:
        if params.template == "chat" and model.facts.template == "none":
            yield Finding(
                f"{model.name} has no chat template", "with.template", "template: none asks without one"
            )


def golden_words(step: StepView, params: GoldenParams) -> Iterator[Word]:
    """The options of golden."""
    for prompts in step.given.get("prompts", ()):
        yield from ("--prompts", InputRef(prompts.name))
    yield from ("--max-tokens", str(params.max_tokens), "--template", params.template)


def _perplexity(step: StepView) -> PerplexityParams:
    assert isinstance(step.params, PerplexityParams)
    return step.params


def _divergence(step: StepView) -> KlDivergenceParams:
    assert isinstance(step.params, KlDivergenceParams)
    return step.params


def _speed(step: StepView) -> SpeedOnly:
    assert isinstance(step.params, SpeedOnly)
    return step.params


def _golden(step: StepView) -> GoldenOnly:
    assert isinstance(step.params, GoldenOnly)
    return step.params
