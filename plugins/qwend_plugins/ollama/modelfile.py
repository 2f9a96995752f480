"""`ollama/modelfile`: a Modelfile for a model, complete with the model beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    OutputRef,
    Params,
    Product,
    Resources,
    StepView,
)
from qwend_plugins.ollama import common


class ModelfileParams(common.ModelParams):
    """What the Modelfile says."""

    weights: bool = Field(True, description="put the model beside the Modelfile; false: the Modelfile alone")


class WriteModelfile:
    """Writes a Modelfile."""

    name: ClassVar[str] = "ollama/modelfile"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "writes a Modelfile for a GGUF or a merged checkpoint, its template compared"
    params: ClassVar[type[Params]] = ModelfileParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf", "model/safetensors")
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS
    first: ClassVar[dict[str, tuple[str, ...]]] = common.FIRST

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        yield from common.findings(_params(step), step.inputs[0])
        if step.extra_args:
            yield Finding("there are no further arguments: all of them are parameters", "extra_args")

    def product(self, step: StepView) -> Product:
        return Product("model/ollama", step.inputs[0].facts)

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, model = _params(step), step.inputs[0]
        return Launch(
            argv=(
                *(ImageRef("bin/python"), DriverRef("write_modelfile.py"), "--model", InputRef(model.name)),
                *("--wanted", DriverRef(common.WANTED), "--out", OutputRef()),
                *(() if params.weights else ("--no-weights",)),
            ),
            files=(
                *common.files("write_modelfile.py", *common.COMPOSING),
                common.wanted(params, model.facts),
            ),
            resumable=True,  # what a failed attempt leaves is the original template, for the user to go on from
            resources=Resources(disk=model.facts.bytes if params.weights else 0),
            hints=common.HINTS,
        )


def _params(step: StepView) -> ModelfileParams:
    assert isinstance(step.params, ModelfileParams)
    return step.params
