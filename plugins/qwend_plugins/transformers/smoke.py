"""`transformers/smoke`: a tiny model that learned a text, so that its perplexity means something."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

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
    ThreadsRef,
    Word,
    flag,
    reference,
)
from qwend_plugins.serving import GIB, flags
from qwend_plugins.transformers import common

_FILES = ("tf_smoke.py", "tf_load.py", "hf_packed.py")
_MOST_PARAMETERS = 500_000_000
"""As in the driver: what a minute on a CPU can change."""


class SmokeParams(Params):
    """What is learned, and for how long."""

    text: str | None = reference(
        "dataset/text", description="what is learned; left out: the checkpoint is only written anew"
    )
    max_steps: int = flag(
        "--max-steps", 60, description="steps of training, each over 512 tokens", ge=1, le=100_000
    )
    learning_rate: float = flag("--learning-rate", 1e-3, description="step size of AdamW", gt=0, lt=1)
    seed: int = flag("--seed", 0, description="seed of the order of the text", ge=0)


class Smoke:
    """Teaches a tiny model a text."""

    name: ClassVar[str] = "transformers/smoke"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "teaches a tiny model (smoke:qwen2) a text, so that its perplexity means something"
    )
    params: ClassVar[type[Params]] = SmokeParams
    accepts: ClassVar[tuple[str, ...]] = ("model/safetensors",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        count = step.inputs[0].facts.parameters
        if count is not None and count > _MOST_PARAMETERS:
            yield Finding(
                f"{step.inputs[0].name} has {count:,} parameters; this is for tiny models",
                "from",
                "llama-factory/train tunes real ones",
            )
        if step.extra_args:
            yield Finding("there are no further arguments: all of them are parameters", "extra_args")

    def product(self, step: StepView) -> Product:
        return Product("model/safetensors", step.inputs[0].facts)

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        count = step.inputs[0].facts.parameters
        cards = step.gpus if step.flavour.startswith("cuda") else 0
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("tf_smoke.py"), *_words(step, params)),
            files=common.shared(*_FILES),
            resources=Resources(
                # weights, gradients and two moments in 32 bits, logits of one batch over the vocabulary thrice
                memory=None if count is None else 16 * count + 2 * GIB,
                disk=step.inputs[0].facts.bytes,
                gpus=cards,
                heavy=True,
                note="weights, gradients and moments in 32 bits",
            ),
            hints=common.HINTS,
        )


def _words(step: StepView, params: SmokeParams) -> Iterator[Word]:
    yield from ("--model", InputRef(step.inputs[0].name), "--device", common.DEVICES[step.flavour])
    yield from ("--threads", ThreadsRef(), "--out", OutputRef())
    for text in step.given.get("text", ()):
        yield from ("--text", InputRef(text.name))
    yield from flags(params, "max_steps", "learning_rate", "seed")


def _params(step: StepView) -> SmokeParams:
    assert isinstance(step.params, SmokeParams)
    return step.params
