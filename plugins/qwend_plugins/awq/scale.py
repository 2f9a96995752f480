"""`awq/scale`: AWQ's scales applied to the weights, which stay in 16 bits: ready to become a quantised GGUF."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from qwend.plugin import Finding, Host, Image, Launch, Params, Product, StepView
from qwend_plugins.awq.common import CalibrationParams, autoawq_findings, autoawq_options, memory_words
from qwend_plugins.quantising import Job, common_findings, launch, quantising, scaled
from qwend_plugins.quantising.backends import image


class ScaleParams(CalibrationParams):
    """Parameters of AutoAWQ's quantize(export_compatible=True), by its own names."""

    w_bit: int = Field(
        4, description="bits that the scales are searched for: those of the GGUF to come", ge=2, le=8
    )
    apply_clip: bool = Field(
        False,
        description="also clip the weights where AWQ's own rounding would gain by it; another tool's seldom does",
    )
    torch_dtype: Literal["auto", "float16", "bfloat16"] = Field(
        "auto", description="format of the scaled weights; auto: the source's"
    )
    shard_size: str = Field(
        "5GB", description="largest file of the result", pattern=r"^\d+(?:MB|GB)$", min_length=3, max_length=8
    )


class Scale:
    """Prepares a checkpoint for quantising by another tool."""

    name: ClassVar[str] = "awq/scale"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "applies AWQ's scales to the 16-bit weights, to be quantised as a GGUF afterwards"
    )
    params: ClassVar[type[Params]] = ScaleParams
    accepts: ClassVar[tuple[str, ...]] = ("model/safetensors",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _params(step)
        yield from common_findings(step, "autoawq", params.q_group_size, "with.q_group_size")
        yield from autoawq_findings(step, params)

    def product(self, step: StepView) -> Product:
        wanted = _params(step).torch_dtype
        return Product(
            "model/safetensors", scaled(step.inputs[0].facts, None if wanted == "auto" else wanted)
        )

    def image(self, step: StepView, host: Host) -> Image:
        return image("autoawq", step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        options = {
            **autoawq_options(params),
            "w_bit": params.w_bit,
            "version": "GEMM",
            "torch_dtype": params.torch_dtype,
            "shard_size": params.shard_size,
        }
        parallel = params.n_parallel_calib_samples
        resources = quantising(
            step,
            self.product(step).facts,
            tokens=params.max_calib_samples * params.max_calib_seq_len,
            element=4,
            at_once=None if parallel is None else parallel * params.max_calib_seq_len,
        )
        return launch(step, Job("autoawq", options, None, "calib_data", memory_words(params)), resources)


def _params(step: StepView) -> ScaleParams:
    assert isinstance(step.params, ScaleParams)
    return step.params
