"""`evaluate/select`: the smallest or fastest of the compared models that is good enough. It is the artifact."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from qwend.plugin import (
    DriverRef,
    Facts,
    Finding,
    Given,
    Host,
    Image,
    ImageRef,
    InputRef,
    Join,
    Launch,
    Params,
    Product,
    StepView,
    Word,
    driver,
    load_image,
)
from qwend_plugins.evaluate import common
from qwend_plugins.evaluate.compare import Compare, CompareParams, models_of

BOUND = re.compile(
    r"\s*(?P<name>[a-z_][a-z0-9_]*)\s*(?P<sign><=|>=|==|<|>)\s*(?P<bound>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
)
SYNTAX = "write METRIC <= NUMBER, several joined by and: mean_kld <= 0.05 and same_top >= 0.9"


class SelectParams(Params):
    """Parameters of evaluate/select: one of the two."""

    smallest_where: str | None = Field(
        None, description="take the smallest model of which this holds: mean_kld <= 0.05", max_length=400
    )
    fastest_where: str | None = Field(
        None, description="take the model that writes fastest of which this holds", max_length=400
    )

    @model_validator(mode="after")
    def _one(self) -> SelectParams:
        if self.smallest_where is not None and self.fastest_where is not None:
            raise ValueError("smallest_where and fastest_where cannot both decide")
        return self


class Select:
    """Chooses by a report."""

    name: ClassVar[str] = "evaluate/select"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "The smallest or fastest of the compared models that is good enough; it is the artifact"
    )
    params: ClassVar[type[Params]] = SelectParams
    accepts: ClassVar[tuple[str, ...]] = ("report",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = ("cpu",)
    select: ClassVar[bool] = True

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, report = _params(step), step.inputs[0]
        key = "fastest_where" if params.fastest_where is not None else "smallest_where"
        where = params.fastest_where or params.smallest_where
        if where is None:
            yield Finding("needs smallest_where or fastest_where", "with", SYNTAX)
        models = list(models_of(report))
        if not models:
            yield Finding(f"{report.name} compares no models", "from", "evaluate/compare makes such a report")
        types = {model.type for model in models}
        if len(types) > 1:
            yield Finding(
                f"{report.name} compares {' and '.join(sorted(types))}: what follows could not know which it gets",
                "from",
                "select among models of one format",
            )
        yield from _bound_findings(where or "", f"with.{key}", _metrics(report))
        if (
            key == "fastest_where"
            and where
            and report.engine == Compare.name
            and not _measured(report, "speed")
        ):
            yield Finding(f"{report.name} measures no speed", f"with.{key}", "add speed to its measure")

    def product(self, step: StepView) -> Product:
        """Which one it will be is not known: the largest bounds what serving it takes."""
        models = list(models_of(step.inputs[0]))
        if not models:
            return Product("model/gguf", Facts())
        largest = max(models, key=lambda model: model.facts.bytes or 0)
        return Product(largest.type, largest.facts)

    def metrics(self, step: StepView) -> Iterable[str] | None:
        """Those that the report has of the chosen one: gates may speak of `best.mean_kld`."""
        return sorted(_metrics(step.inputs[0])) or None

    def image(self, step: StepView, host: Host) -> Image:
        return load_image("qwend_images:datasets", "cpu")

    def launch(self, step: StepView, host: Host) -> Launch:
        params, report = _params(step), step.inputs[0]
        argv: list[Word] = [ImageRef("bin/python"), DriverRef("choose.py"), "--report", InputRef(report.name)]
        argv += ["--by", "speed" if params.fastest_where is not None else "size"]
        for bound in re.split(r"\s+and\s+", (params.fastest_where or params.smallest_where or "").strip()):
            if found := BOUND.fullmatch(bound):
                argv += ["--where", f"{found['name']}{found['sign']}{found['bound']}"]
        for model in models_of(report):
            argv += ["--model", Join((f"{model.name}=", InputRef(model.name)))]
        names = ("choose.py", "ev_common.py")
        return Launch(argv=tuple(argv), files=tuple(driver(common.DRIVERS / name) for name in names))


def _bound_findings(where: str, key: str, known: set[str]) -> Iterator[Finding]:
    for bound in re.split(r"\s+and\s+", where.strip()) if where else ():
        found = BOUND.fullmatch(bound)
        if found is None:
            yield Finding(f"{bound[:80]!r} is no comparison", key, SYNTAX)
        elif known and found["name"] not in known and "_at_" not in found["name"]:
            said = ", ".join(sorted(name for name in known if "_at_" not in name))
            yield Finding(f"the report has no {found['name']}", key, f"it has {said}")


def _metrics(report: Given) -> set[str]:
    """Names of the figures that a compare will have of its models; empty if that cannot be told."""
    if report.engine != Compare.name or any(one.type == "report" for one in report.lineage):
        return set()
    params = CompareParams.model_validate(report.params, strict=False)
    names = {field for field, read in params.model_dump().items() if read is not None}
    inputs = tuple(one for one in report.lineage if one.type in common.FAMILIES)
    given = (
        {"text": tuple(one for one in report.lineage if one.type == "dataset/text")}
        if "text" in names
        else {}
    )
    view = StepView(name=report.name, recipe="", params=params, inputs=inputs, given=given)
    return {name.rpartition(".")[2] for name in Compare().metrics(view) or ()}


def _measured(report: Given, what: str) -> bool:
    """Whether a compare measures it; of one that puts reports together, whether any of them does."""
    below = [one for one in report.lineage if one.type == "report"]
    return what in report.params.get("measure", ()) or any(one.engine == f"evaluate/{what}" for one in below)


def _params(step: StepView) -> SelectParams:
    assert isinstance(step.params, SelectParams)
    return step.params
