"""`llama-cpp/split` and `llama-cpp/merge`: one GGUF as several files, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from qwend.plugin import (
    Finding,
    Host,
    Image,
    ImageRef,
    Launch,
    LogHint,
    OutputRef,
    Params,
    Product,
    Resources,
    StepView,
    flag,
)
from qwend_plugins.llama_cpp import common

_HINTS = (
    LogHint(
        r"one of splits have 0 tensors",
        "a file would hold no tensor: the limit is smaller than the largest tensor",
        "take a larger split_max_size",
    ),
    LogHint(
        r"does not contain a valid split count|unexpected input file name|missing key split",
        "this GGUF is one file: there is nothing to merge",
        "use it as it is",
    ),
    LogHint(
        r"failed to load GGUF split from (?P<file>\S+)|failed to open split file|failed to read tensor",
        "a part of the model is missing or cut short",
        "qwend store verify finds damage; fetch it again",
    ),
    common.BROKEN_FILE,
    common.DISK_FULL,
)


class SplitParams(Params):
    """Parameters of llama-gguf-split, by its own names."""

    split_max_size: str | None = flag(
        "--split-max-size", None, description="most of a file: 4G, 500M", pattern=r"^[1-9]\d{0,5}[MG]$"
    )
    split_max_tensors: int | None = flag(
        "--split-max-tensors", None, description="most tensors of a file; 128 if nothing is said", ge=1
    )
    no_tensor_first_split: bool = flag(
        "--no-tensor-first-split", False, description="the first file holds metadata alone"
    )


class Split:
    """Splits a GGUF into files of a size."""

    name: ClassVar[str] = "llama-cpp/split"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "splits a GGUF into several files (llama-gguf-split)"
    params: ClassVar[type[Params]] = SplitParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = step.params
        if params.split_max_size is not None and params.split_max_tensors is not None:
            yield Finding("give split_max_size or split_max_tensors, not both", "with.split_max_tensors")

    def product(self, step: StepView) -> Product:
        return Product("model/gguf", step.inputs[0].facts)

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.TOOLS, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        fields = ("split_max_size", "split_max_tensors", "no_tensor_first_split")
        words = [str(word) for word in common.flags(step.params, *fields)]
        return _launch(step, "--split", *words, output="model")


class MergeParams(Params):
    """llama-gguf-split --merge has no parameters."""


class Merge:
    """Makes one file of a GGUF in several."""

    name: ClassVar[str] = "llama-cpp/merge"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "makes one file of a GGUF in several (llama-gguf-split --merge)"
    params: ClassVar[type[Params]] = MergeParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        return ()

    def product(self, step: StepView) -> Product:
        return Product("model/gguf", step.inputs[0].facts)

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.TOOLS, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        return _launch(step, "--merge", output="model.gguf")


def _launch(step: StepView, *words: str, output: str) -> Launch:
    """The tool with its words, the model and where the result goes."""
    model = step.inputs[0]
    return Launch(
        argv=common.making(
            ImageRef("bin/llama-gguf-split"), *words, *step.extra_args, common.gguf(model), OutputRef(output)
        ),
        files=common.drivers(*common.MAKING),
        resources=Resources(memory=common.GIB // 4, disk=model.facts.bytes, heavy=True),
        hints=_HINTS,
    )
