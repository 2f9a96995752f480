"""Steps of llama.cpp's engines as a compiler would hand them over."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from qwend.core.binding import describe
from qwend.plugin import Engine, Facts, Finding, Given, Launch, Pin, StepView
from qwend.plugin.samples import HOSTS

HOST = HOSTS["cpu"]

QWEN_05B = Facts(
    architecture="qwen2", parameters=494_032_768, bytes=988_097_824, context=32_768, layers=24, kv_heads=2, heads=14,
    head_dim=64, hidden=896, vocabulary=151_936, bits=16.0, dtype="bfloat16", template="chatml",
)  # fmt: skip
QWEN_7B = Facts(
    architecture="qwen2", parameters=7_615_616_512, bytes=15_231_233_024, context=32_768, layers=28, kv_heads=4,
    heads=28, head_dim=128, hidden=3584, vocabulary=152_064, bits=16.0, dtype="F16", template="chatml",
)  # fmt: skip


def model(
    name: str = "base", facts: Facts = QWEN_7B, kind: str = "model/gguf", ref: str | None = None
) -> Given:
    pin = None if ref is None else Pin(ref=ref, identity=ref, type=kind, facts=facts)
    return Given(name=name, type=kind, facts=facts, pin=pin)


def step(
    engine: Engine, given: Given | None = None, *, inputs: dict[str, Given] | None = None, **view: Any
) -> StepView:
    """A step named `step`; `with_` are its parameters as a recipe says them."""
    said = json.dumps(view.pop("with_", {}))
    kind = engine.accepts[0]
    made = StepView(
        name="step",
        recipe="recipe",
        params=engine.params.model_validate_json(said),
        inputs=(given or model(kind=kind),),
        given={field: (one,) for field, one in (inputs or {}).items()},
    )
    return msgspec.structs.replace(made, **view)


def command(engine: Engine, view: StepView) -> str:
    return " ".join(describe(launch(engine, view)))


def launch(engine: Engine, view: StepView) -> Launch:
    return engine.launch(view, HOST)


def findings(engine: Engine, view: StepView) -> list[Finding]:
    return list(engine.check(view, HOST))


def errors(engine: Engine, view: StepView) -> list[str]:
    return [f"{f.key}: {f.message}" for f in findings(engine, view) if f.level == "error"]


def warnings(engine: Engine, view: StepView) -> list[str]:
    return [f"{f.key}: {f.message}" for f in findings(engine, view) if f.level == "warning"]
