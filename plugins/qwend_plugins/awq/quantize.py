"""`awq/quantize`: a checkpoint in 4 bits by AWQ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field

from qwend.plugin import Finding, Host, Image, Launch, Params, Product, StepView
from qwend_plugins.awq.common import (
    CalibrationParams,
    autoawq_findings,
    autoawq_options,
    memory_words,
)
from qwend_plugins.quantising import BACKENDS, Job, common_findings, launch, packed, quantising
from qwend_plugins.quantising.backends import image
from qwend_plugins.quantising.checks import of_other_backends

_OWN = {
    "autoawq": (
        "version",
        "torch_dtype",
        "apply_clip",
        "duo_scaling",
        "n_parallel_calib_samples",
        "max_chunk_memory",
    ),
    "gptqmodel": ("version",),
    "llm-compressor": ("duo_scaling",),
}
"""Parameters that not every backend has."""
_BITS = {"autoawq": (4,), "gptqmodel": (4,), "llm-compressor": (4, 8)}


class QuantizeParams(CalibrationParams):
    """Parameters of AutoAWQ's quantize(), by its own names."""

    backend: Literal["autoawq", "gptqmodel", "llm-compressor"] = Field(
        "autoawq",
        description="which library: autoawq is the original, no longer developed; llm-compressor writes what vLLM "
        "serves fastest and knows the newest models; gptqmodel writes the same format as autoawq and is developed",
    )
    w_bit: int = Field(
        4, description="bits per weight; the packed format has 4, llm-compressor also writes 8", ge=2, le=8
    )
    version: Literal["GEMM", "GEMV", "GEMV_FAST", "MARLIN"] = Field(
        "GEMM", description="layout of the packed weights; GEMM is what every server reads"
    )
    torch_dtype: Literal["float16", "bfloat16", "auto"] = Field(
        "float16",
        description="format of what is not quantised; AWQ's kernels are written for float16; auto: the source's",
    )
    shard_size: str = Field(
        "5GB", description="largest file of the result", pattern=r"^\d+(?:MB|GB)$", min_length=3, max_length=8
    )


class Quantize:
    """Makes a checkpoint of a quarter of the size."""

    name: ClassVar[str] = "awq/quantize"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "quantises a checkpoint to 4 bits by AWQ, and proves that it loads and answers"
    params: ClassVar[type[Params]] = QuantizeParams
    accepts: ClassVar[tuple[str, ...]] = ("model/safetensors",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "cuda12")

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _params(step)
        yield from common_findings(step, params.backend, params.q_group_size, "with.q_group_size")
        yield from of_other_backends(params, params.backend, _OWN)
        if params.w_bit not in _BITS[params.backend]:
            yield Finding(
                f"{params.backend} writes AWQ in {' or '.join(map(str, _BITS[params.backend]))} bits",
                "with.w_bit",
                "backend: llm-compressor writes 8 too; awq/scale takes any number on the way to a GGUF",
            )
        if params.backend == "autoawq":
            yield from autoawq_findings(step, params)
        if params.backend != "llm-compressor" and params.version != "GEMM" and step.flavour == "cpu":
            yield Finding(
                f"the result is loaded once before the step succeeds, and {params.version} runs on cards only",
                "with.version",
                "GEMM, or device: cuda",
            )
        if params.version == "MARLIN" and params.zero_point:
            yield Finding("the MARLIN layout has no zero points", "with.zero_point", "zero_point: false")
        if params.backend == "gptqmodel" and params.version == "MARLIN":
            yield Finding("gptqmodel no longer writes MARLIN", "with.version", "GEMM: it is served by Marlin")

    def product(self, step: StepView) -> Product:
        params = _params(step)
        facts = packed(step.inputs[0].facts, params.w_bit, params.q_group_size)
        if params.backend == "autoawq" and params.torch_dtype != "auto":
            facts = msgspec.structs.replace(facts, dtype=params.torch_dtype)
        return Product(BACKENDS[params.backend].types["awq"], facts)

    def image(self, step: StepView, host: Host) -> Image:
        return image(_params(step).backend, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        tokens = params.max_calib_samples * params.max_calib_seq_len
        plain = params.backend == "autoawq"
        parallel = params.n_parallel_calib_samples if plain else 1
        resources = quantising(
            step,
            self.product(step).facts,
            tokens=tokens,
            element=4 if plain else 2,
            at_once=None if parallel is None else parallel * params.max_calib_seq_len,
        )
        return launch(step, _job(params), resources)


def _job(params: QuantizeParams) -> Job:
    claim: dict[str, Any] = {
        "method": "awq",
        "bits": params.w_bit,
        "group_size": params.q_group_size,
        "ignore": list(params.modules_to_not_convert),
    }
    if params.backend == "autoawq":
        options = {
            **autoawq_options(params),
            "w_bit": params.w_bit,
            "version": params.version,
            "torch_dtype": params.torch_dtype,
            "shard_size": params.shard_size,
        }
        return Job("autoawq", options, claim, "calib_data", memory_words(params))
    if params.backend == "gptqmodel":
        wanted = {
            "method": "awq",
            "format": params.version.lower(),
            "bits": params.w_bit,
            "group_size": params.q_group_size,
            "sym": not params.zero_point,
            "dynamic": without(params.modules_to_not_convert),
        }
        options = {
            "quantize": wanted,
            "samples": params.max_calib_samples,
            "length": params.max_calib_seq_len,
            "shard_size": params.shard_size,
        }
        return Job("gptqmodel", options, claim, "calib_data")
    ignore = [f"re:.*{name}.*" for name in params.modules_to_not_convert]
    options = {
        "algorithm": "awq",
        "scheme": f"W{params.w_bit}A16",
        "weights": weights(params.w_bit, params.q_group_size, not params.zero_point),
        "group_size": params.q_group_size,
        "ignore": ignore,
        "smoothing_strength": 0.0,
        "duo_scaling": params.duo_scaling,
        "n_grid": 20,
        "samples": params.max_calib_samples,
        "length": params.max_calib_seq_len,
        "shard_size": params.shard_size,
    }
    claim |= {"method": "compressed-tensors", "ignore": ignore}
    return Job("llm-compressor", options, claim, "calib_data")


def without(modules: tuple[str, ...]) -> dict[str, Any] | None:
    """GPTQModel's own way to leave matrices out: patterns that begin with a minus."""
    return {f"-:.*{name}.*": {} for name in modules} or None


def weights(bits: int, group_size: int, symmetric: bool) -> dict[str, Any]:
    """The weights of a compressed-tensors scheme: in groups, or one scale a row."""
    groups = group_size > 0
    return {
        "num_bits": bits,
        "group_size": group_size if groups else None,
        "strategy": "group" if groups else "channel",
        "symmetric": symmetric,
    }


def _params(step: StepView) -> QuantizeParams:
    assert isinstance(step.params, QuantizeParams)
    return step.params
