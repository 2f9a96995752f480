"""What is wrong with a quantising step whatever the library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qwend.plugin import Finding, Params, StepView
from qwend_plugins.quantising.backends import BACKENDS


def common_findings(step: StepView, backend: str, group_size: int | None, key: str) -> Iterator[Finding]:
    """Flavour, architecture, group size and calibration. `key` is the path of the group size in the step."""
    facts = step.inputs[0].facts
    if step.flavour not in BACKENDS[backend].flavours:
        yield Finding(
            f"{backend} has no image for {step.flavour}",
            "with.backend" if "backend" in type(step.params).model_fields else "device",
            f"it runs on {' and '.join(BACKENDS[backend].flavours)}",
        )
    if group_size is not None and group_size > 0 and facts.hidden and facts.hidden % group_size:
        fit = [size for size in (128, 64, 32, 16) if facts.hidden % size == 0]
        yield Finding(
            f"group size {group_size} does not divide the model's hidden size of {facts.hidden}",
            key,
            f"these do: {', '.join(map(str, fit))}" if fit else "take -1: one group a row",
        )
    if facts.dtype in ("float8_e4m3fn", "fp8"):
        yield Finding("the model is quantised already (FP8)", "from", "start from the 16-bit model")
    if step.extra_args:
        yield Finding("this driver has no further arguments: all of them are parameters", "extra_args")


def of_other_backends(params: Params, backend: str, own: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    """A parameter that was set and that the chosen backend does not have: never dropped in silence.

    `own` names for each backend the parameters that only some have."""
    mine = set(own.get(backend, ()))
    only_some = {name for names in own.values() for name in names}
    for name in sorted(only_some - mine):
        value: Any = getattr(params, name)
        if value != type(params).model_fields[name].default:
            others = " and ".join(other for other, names in own.items() if name in names)
            yield Finding(f"{backend} has no {name}", f"with.{name}", f"leave it out; {others} has it")
