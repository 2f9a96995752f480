"""`mlx/fuse`: an adapter is merged into its base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

import msgspec

from qwend.plugin import (
    DriverRef,
    Finding,
    Given,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    OutputRef,
    Params,
    Product,
    Resources,
    ScratchRef,
    StepView,
    Word,
    flag,
    reference,
)
from qwend_plugins.mlx import common
from qwend_plugins.mlx.convert import READABLE
from qwend_plugins.serving import adapter_findings, base_of


class FuseParams(Params):
    """Parameters of mlx_lm.fuse, by its own names. Nothing is ever uploaded."""

    base: str | None = reference(
        "model/mlx",
        "model/safetensors",
        description="the adapter's base; left out: the one it was trained on",
    )
    dequantize: bool = flag(
        "--dequantize",
        False,
        description="write a quantised base out in full numbers, with the adapter in them",
    )


class Fuse:
    """Merges an adapter of mlx/lora, or of PEFT, into its base."""

    name: ClassVar[str] = "mlx/fuse"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "merges an adapter into the model that it was trained on (mlx_lm.fuse)"
    params: ClassVar[type[Params]] = FuseParams
    accepts: ClassVar[tuple[str, ...]] = ("adapter/lora",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        adapter, base = step.inputs[0], _base(step)
        yield from common.machine_findings(step, host)
        if base is None:
            named = f" (it names {adapter.facts.base})" if adapter.facts.base else ""
            yield Finding(
                f"{adapter.name} comes from elsewhere: its base is not known{named}",
                "from",
                "name it: with: {base: …}",
            )
        else:
            yield from adapter_findings(base, (adapter,), "with.base")
            if _params(step).dequantize and not common.quantised(base.facts):
                yield Finding(f"{base.name} is not quantised: there is nothing to undo", "with.dequantize")
        if step.extra_args:
            yield Finding("there are no further arguments: all of them are parameters", "extra_args")

    def product(self, step: StepView) -> Product:
        base = _base(step)
        if base is None:
            return Product("model/safetensors")
        facts = base.facts
        if _params(step).dequantize:
            size = None if facts.parameters is None else 2 * facts.parameters
            facts = msgspec.structs.replace(facts, bits=16.0, bytes=size)
        return Product(
            "model/mlx" if common.quantised(facts) or not _readable(base) else "model/safetensors", facts
        )

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        base, made = _base(step), self.product(step).facts.bytes
        size = None if base is None or base.facts.bytes is None or made is None else base.facts.bytes + made
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("mlx_fuse.py"), *_words(step, base)),
            env=common.environment(step),
            files=common.files("mlx_fuse.py", "mlx_convert.py", "mlx_adapter.py", "mlx_start.py"),
            resources=Resources(
                memory=None if size is None else size + common.LIBRARIES,
                disk=made,
                heavy=True,
                note="the weights as read and as written" if size else "",
            ),
            hints=common.HINTS,
        )


def _readable(base: Given) -> bool:
    """Whether what MLX writes of it is what other engines read."""
    return base.facts.architecture in READABLE


def _words(step: StepView, base: Given | None) -> Iterator[Word]:
    if base is not None:
        yield from ("--model", InputRef(base.name))
    yield from ("--adapter", InputRef(step.inputs[0].name), "--out", OutputRef(), "--scratch", ScratchRef())
    if _params(step).dequantize:
        yield "--dequantize"
    if step.trust_remote_code:
        yield "--trust-remote-code"


def _base(step: StepView) -> Given | None:
    """The base that was named, else the one that the adapter was trained on."""
    return next(iter(step.given.get("base", ())), None) or base_of(step.inputs[0])


def _params(step: StepView) -> FuseParams:
    assert isinstance(step.params, FuseParams)
    return step.params
