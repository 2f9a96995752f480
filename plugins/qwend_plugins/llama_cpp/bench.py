"""`llama-cpp/bench`: how fast models are here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    Launch,
    OutputRef,
    Params,
    Product,
    Resources,
    StepView,
    estimate,
    flag,
)
from qwend_plugins.llama_cpp import common

_LISTS = ("n_prompt", "n_gen", "n_depth", "batch_size", "ubatch_size", "cache_type_k", "cache_type_v")

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class BenchParams(Params):
    """Parameters of llama-bench, by its own names. Lists are measured in all their combinations."""

    n_prompt: tuple[int, ...] = flag("--n-prompt", (512,), description="lengths of prompts; 0: none")
    n_gen: tuple[int, ...] = flag("--n-gen", (128,), description="lengths of answers; 0: none")
    n_depth: tuple[int, ...] = flag("--n-depth", (0,), description="tokens that are in the context before")
    repetitions: int = flag("--repetitions", 5, description="how often each is measured", ge=1, le=1000)
    batch_size: tuple[int, ...] = flag("--batch-size", (), description="tokens of a prompt taken at once")
    ubatch_size: tuple[int, ...] = flag("--ubatch-size", (), description="tokens computed at once")
    cache_type_k: tuple[CacheType, ...] = flag(
        "--cache-type-k", (), description="number format of the cached keys"
    )
    cache_type_v: tuple[CacheType, ...] = flag(
        "--cache-type-v", (), description="number format of the cached values"
    )
    flash_attn: Literal["auto", "on", "off"] = flag("--flash-attn", "auto", description="flash attention")
    n_gpu_layers: int | None = flag(
        "--n-gpu-layers", None, description="layers on the accelerator; left out: as many as fit", ge=0
    )
    threads: tuple[int, ...] = flag(
        "--threads", (), description="CPU threads, several to compare them; left out: what the lease allows"
    )


class Bench:
    """Measures tokens a second."""

    name: ClassVar[str] = "llama-cpp/bench"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "measures how fast GGUF models read and write here (llama-bench)"
    params: ClassVar[type[Params]] = BenchParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = True
    flavours: ClassVar[tuple[str, ...]] = common.COMPUTING

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _params(step)
        for field in ("n_prompt", "n_gen", "n_depth", "batch_size", "ubatch_size", "threads"):
            least = 0 if field.startswith("n_") else 1
            if any(value < least for value in getattr(params, field)):
                yield Finding(f"a value is less than {least}", f"with.{field}")
        if not any(params.n_prompt) and not any(params.n_gen):
            yield Finding("there is nothing to measure: neither a prompt nor an answer", "with.n_prompt")
        longest = max(params.n_depth, default=0) + max((*params.n_prompt, *params.n_gen), default=0)
        for model in step.inputs:
            if model.facts.context is not None and longest > model.facts.context:
                yield Finding(
                    f"{longest} tokens are beyond what {model.name} was trained for ({model.facts.context})",
                    "with.n_prompt",
                    level="warning",
                )
        yield from common.no_layers(step, params.n_gpu_layers)

    def product(self, step: StepView) -> Product:
        return Product("report")

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.TOOLS, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        lists = [
            word
            for field in _LISTS
            if getattr(params, field)
            for word in (_flag(field), ",".join(map(str, getattr(params, field))))
        ]
        threads = ",".join(map(str, params.threads)) if params.threads else common.threads(None)
        return Launch(
            argv=(
                ImageRef("bin/python"),
                DriverRef("lc_bench.py"),
                "--tool",
                ImageRef("bin/llama-bench"),
                "--out",
                OutputRef(),
                *(word for model in step.inputs for word in common.named(model)),
                "--",
                "--offline",
                "--progress",
                *lists,
                "--repetitions",
                str(params.repetitions),
                *common.flags(params, "flash_attn"),
                *common.offload(step, params.n_gpu_layers, join="/"),
                "--threads",
                threads,
                *step.extra_args,
            ),
            files=common.drivers("lc_bench.py", "lc_common.py"),
            resources=_resources(step),
            hints=common.TOOL_HINTS,
        )


def _flag(field: str) -> str:
    extra = BenchParams.model_fields[field].json_schema_extra
    assert isinstance(extra, dict)
    return str(extra["x-qwend-flag"])


def _resources(step: StepView) -> Resources:
    params = _params(step)
    length = max(params.n_depth, default=0) + max((*params.n_prompt, *params.n_gen), default=0)
    needs = [estimate(model.facts, max(length, 1)) for model in step.inputs]
    known = [need.total for need in needs if need is not None]
    most = max(known) if len(known) == len(needs) else None
    return common.resources(step, most, params.n_gpu_layers, heavy=True, note="the largest model")


def _params(step: StepView) -> BenchParams:
    assert isinstance(step.params, BenchParams)
    return step.params
