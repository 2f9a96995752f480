"""`evaluate/compare`: several models, or reports on them, in one table; the first is the reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from pydantic import Field

from qwend.plugin import (
    DriverRef,
    Finding,
    Given,
    Host,
    Image,
    ImageRef,
    InputRef,
    Join,
    Launch,
    OutputRef,
    Params,
    Product,
    StepView,
    Word,
    driver,
    load_image,
    reference,
)
from qwend_plugins.evaluate import common, measures
from qwend_plugins.evaluate.params import GoldenParams, SpeedParams, TextParams

Measure = Literal["perplexity", "kl_divergence", "speed", "golden"]


class CompareParams(TextParams, SpeedParams, GoldenParams):
    """Parameters of evaluate/compare: those of whatever is measured."""

    measure: tuple[Measure, ...] = Field(
        ("perplexity",), description="what is measured of each model", min_length=1, max_length=4
    )
    text: str | None = reference("dataset/text", description="the text of perplexity and kl_divergence")


class Compare:
    """Measures models one after the other, the same way."""

    name: ClassVar[str] = "evaluate/compare"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Several models, or reports on them, in one table; the first is the reference"
    params: ClassVar[type[Params]] = CompareParams
    accepts: ClassVar[tuple[str, ...]] = (*common.MODELS, "report")
    many: ClassVar[bool] = True
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _params(step)
        told = [one for one in step.inputs if one.type == "report"]
        for one in told:
            if one.engine is not None and not one.engine.startswith("evaluate/"):
                yield Finding(f"{one.name} is a report of {one.engine}, which has no table", "from")
        if told:
            if len(told) < len(step.inputs):
                yield Finding(
                    "models and reports cannot be mixed",
                    "from",
                    "measure each model in a step of its own first",
                )
            return
        yield from common.placed(step, step.inputs)
        measured = set(params.measure)
        if measured & {"perplexity", "kl_divergence"}:
            if not step.given.get("text"):
                yield Finding("is required: there is nothing to measure on", "with.text", "name a text")
            for text in step.given.get("text", ()):
                yield from common.one_text(text, step.inputs, params.same_text)
            yield from measures.context_findings(step, params.context)
        if measured & {"kl_divergence", "golden"} and len(step.inputs) < 2:
            yield Finding(
                "one model alone cannot be compared", "from", "name the reference first, then the others"
            )
        if "speed" in measured:
            yield from measures.speed_findings(step, params)
        if "golden" in measured:
            yield from measures.template_findings(step, params)

    def product(self, step: StepView) -> Product:
        return Product("report")

    def image(self, step: StepView, host: Host) -> Image:
        if any(one.type == "report" for one in step.inputs):
            return load_image("qwend_images:datasets", "cpu")
        return common.image(step, step.inputs)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        if any(one.type == "report" for one in step.inputs):
            return self._tabulated(step)
        words: list[Word] = []
        context = 512
        if {"perplexity", "kl_divergence"} & set(params.measure) and step.given.get("text"):
            words += measures.text_words(step, params)
            context = params.context
        if "speed" in params.measure:
            words += measures.speed_words(step, params)
            context = max(context, measures.speed_context(step, params))
        if "golden" in params.measure:
            words += measures.golden_words(step, params)
            context = max(context, 4096)
        return common.launch(
            step, step.inputs, params.measure, words,
            dtype=params.dtype, threads=params.threads, context=context,
        )  # fmt: skip

    def metrics(self, step: StepView) -> Iterable[str] | None:
        """Those of reports are told by their own steps."""
        if any(one.type == "report" for one in step.inputs):
            return None
        return (*measures.of(step.inputs, measures.SIZES), *self._measured(step))

    def _measured(self, step: StepView) -> Iterator[str]:
        params, rest = _params(step), step.inputs[1:]
        if {"perplexity", "kl_divergence"} & set(params.measure):
            yield from measures.of(step.inputs, common.QUALITY)
        if "kl_divergence" in params.measure:
            yield from measures.of(rest, common.APART)
        if "speed" in params.measure:
            yield from measures.of(step.inputs, measures.speed_names(step, params))
        if "golden" in params.measure:
            yield from measures.of(rest, common.ANSWERED)

    def _tabulated(self, step: StepView) -> Launch:
        argv: list[Word] = [ImageRef("bin/python"), DriverRef("tabulate_reports.py")]
        for one in step.inputs:
            argv += ["--report", Join((f"{one.name}=", InputRef(one.name)))]
        names = ("tabulate_reports.py", "ev_common.py", "ev_table.py")
        return Launch(
            argv=(*argv, "--out", OutputRef()),
            files=tuple(driver(common.DRIVERS / name) for name in names),
        )


def models_of(report: Given) -> Iterator[Given]:
    """The models that a report is about, those of the reports that it puts together included."""
    for one in report.lineage:
        if one.type == "report" and report.engine == "evaluate/compare":
            yield from models_of(one)
        elif one.type in common.FAMILIES:
            yield one


def _params(step: StepView) -> CompareParams:
    assert isinstance(step.params, CompareParams)
    return step.params
