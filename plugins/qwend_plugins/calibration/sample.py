"""`calibration/sample`: some rows of a data set, or all of them, in the one layout that every engine reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from qwend.plugin import (
    DriverRef,
    Facts,
    Finding,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    LogHint,
    OutputRef,
    Params,
    Product,
    Resources,
    StepView,
    driver,
    load_image,
)

DRIVERS = Path(__file__).parent / "drivers"
_LIBRARIES = 256 << 20
"""Resident set with numpy and pyarrow imported, before any row (measured on Linux: 0.2 GiB)."""


class SampleParams(Params):
    """Which rows, and what of them."""

    column: str | None = Field(
        None, description="the column with the text; left out: text, or the only one that holds text",
        min_length=1, max_length=256,
    )  # fmt: skip
    sample: int | None = Field(
        200, description="so many rows, shuffled; null: all of them, in their order", ge=1, le=10_000_000
    )
    seed: int = Field(42, description="seed of the shuffle", ge=0, lt=2**32)
    min_chars: int = Field(
        0, description="leave out rows with less text than this, before the shuffle", ge=0, le=1_000_000
    )
    join: Literal["auto", "paragraphs", "lines", "wikitext"] = Field(
        "auto",
        description="how rows become data.txt: with a blank line between them, as they are, or as wikitext's raw "
        "file was; auto: by how the rows end",
    )


class Sample:
    """Draws rows. The same seed and size give the rows that the datasets library would."""

    name: ClassVar[str] = "calibration/sample"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "Rows of a data set (JSON, CSV, Parquet, Arrow, text), drawn by seed, in one layout"
    )
    params: ClassVar[type[Params]] = SampleParams
    accepts: ClassVar[tuple[str, ...]] = ("dataset/text", "dataset/sft", "dataset/prompts")
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = ("cpu",)

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, rows = _params(step), step.inputs[0].facts.rows
        if params.sample is not None and rows is not None and params.sample > rows:
            yield Finding(
                f"{step.inputs[0].name} has {rows:,} rows, fewer than {params.sample:,}: all are taken",
                "with.sample",
                level="warning",
            )

    def product(self, step: StepView) -> Product:
        params, given = _params(step), step.inputs[0]
        known = given.facts.rows
        rows = known if params.sample is None else min(params.sample, known or params.sample)
        kind = "dataset/text" if params.column is not None else given.type
        return Product(kind, Facts(rows=rows))

    def image(self, step: StepView, host: Host) -> Image:
        return load_image("qwend_images:datasets", "cpu")

    def launch(self, step: StepView, host: Host) -> Launch:
        params, given = _params(step), step.inputs[0]
        words = ["--kind", self.product(step).type.partition("/")[2], "--seed", str(params.seed)]
        if params.column is not None:
            words += ["--column", params.column]
        if params.sample is not None:
            words += ["--sample", str(params.sample)]
        words += ["--min-chars", str(params.min_chars), "--join", params.join]
        names = ("sample.py", "rows_reading.py")
        return Launch(
            argv=(
                ImageRef("bin/python"),
                DriverRef("sample.py"),
                "--data",
                InputRef(given.name),
                *words,
                "--out",
                OutputRef(),
            ),
            files=tuple(driver(DRIVERS / name) for name in names),
            resources=Resources(memory=_LIBRARIES + 2 * (given.facts.bytes or 0)),
            hints=(LogHint(r"No space left on device", "the disk is full", "qwend store prune frees some"),),
        )

    def metrics(self, step: StepView) -> Iterable[str]:
        return ("rows",)


def _params(step: StepView) -> SampleParams:
    assert isinstance(step.params, SampleParams)
    return step.params
