"""`hub/fetch`: a model or data of any source, brought here and nothing more (`qwend run hub/fetch --from REF`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from qwend.plugin import (
    ARTIFACT_TYPES,
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    Launch,
    Params,
    Product,
    StepView,
    driver,
)
from qwend_plugins.hub.hubs import image

_SELECT = Path(__file__).parent / "select_input.py"
_TYPES = ("model/safetensors", "model/gguf")


class Fetch:
    """Its source does the work: the artifact is the source's own, under the step's name and at its `out`."""

    name: ClassVar[str] = "hub/fetch"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Download a model or dataset: resumed, pinned, from a mirror if need be"
    params: ClassVar[type[Params]] = Params
    accepts: ClassVar[tuple[str, ...]] = (*_TYPES, *(kind for kind in ARTIFACT_TYPES if kind not in _TYPES))
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = ("cpu",)
    select: ClassVar[bool] = True

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        return ()

    def product(self, step: StepView) -> Product | None:
        return Product(step.inputs[0].type, step.inputs[0].facts)

    def image(self, step: StepView, host: Host) -> Image:
        return image()

    def launch(self, step: StepView, host: Host) -> Launch:
        argv = (ImageRef("bin/python"), DriverRef(_SELECT.name), step.inputs[0].name)
        return Launch(argv=argv, files=(driver(_SELECT),))
