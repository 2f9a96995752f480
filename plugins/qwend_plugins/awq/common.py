"""What `awq/quantize` and `awq/scale` share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from qwend.plugin import Finding, Params, StepView, flag, reference

ARCHITECTURES = frozenset({
    "aquila", "baichuan", "bloom", "cohere", "deepseek_v2", "deepseek_v3", "exaone", "falcon", "gemma", "gemma2",
    "gpt_bigcode", "gpt_neox", "gptj", "internlm2", "llama", "llava", "llava_next", "minicpm", "minicpm3", "mistral",
    "mixtral", "mpt", "opt", "phi3", "phi3_v", "qwen", "qwen2", "qwen2_5_omni", "qwen2_5_vl", "qwen2_vl", "qwen3",
    "qwen3_moe", "RefinedWeb", "RefinedWebModel", "stablelm", "starcoder2", "Yi",
})  # fmt: skip
"""What AutoAWQ 0.2.9, its last release, knows (`AWQ_CAUSAL_LM_MODEL_MAP`; a test holds this to the image)."""
ALIASES = {"qwen3moe": "qwen3_moe"}
"""GGUF spells some architectures otherwise."""


class CalibrationParams(Params):
    """AutoAWQ's own names."""

    calib_data: str = reference(
        "dataset/text",
        default=...,
        description="texts of the kind that the model will see; some hundred are enough",
    )
    q_group_size: int = Field(
        128,
        description="weights that share a scale and a zero point: 128, 64, 32; -1: one group a row",
        ge=-1,
        le=1024,
    )
    zero_point: bool = Field(True, description="asymmetric: each group has a zero point of its own")
    duo_scaling: bool = Field(
        True, description="scales from activations and weights; false: activations alone"
    )
    apply_clip: bool = Field(True, description="also search for limits to clip the weights of a group at")
    modules_to_not_convert: tuple[str, ...] = Field(
        (), description="matrices that stay as they are, by a part of their name: [down_proj]"
    )
    max_calib_samples: int = Field(128, description="texts to calibrate with, at most", ge=1, le=65536)
    max_calib_seq_len: int = Field(
        512,
        description="tokens of a calibration block; AutoAWQ leaves out texts that are longer",
        ge=16,
        le=131072,
    )
    n_parallel_calib_samples: int | None = flag(
        "--parallel",
        None,
        description="blocks that go through a layer at once; left out: all (fast, and most memory)",
        fingerprint=False,
        ge=1,
    )
    max_chunk_memory: int = flag(
        "--chunk-mib",
        1024**3,
        description="bytes that the search for scales takes at once",
        fingerprint=False,
        ge=1024**2,
        le=2**40,
    )


def autoawq_findings(step: StepView, params: CalibrationParams) -> Iterator[Finding]:
    """What AutoAWQ itself cannot do."""
    architecture = step.inputs[0].facts.architecture
    known = ALIASES.get(architecture or "", architecture)
    if known is not None and known not in ARCHITECTURES:
        yield Finding(
            f"AutoAWQ does not know the architecture {known}: it is no longer developed",
            "from",
            "awq/quantize with backend: llm-compressor or gptqmodel knows newer ones",
        )
    if params.q_group_size == 0:
        yield Finding("a group has at least one weight", "with.q_group_size", "128, or -1: one group a row")


def autoawq_options(params: CalibrationParams) -> dict[str, Any]:
    """Those options of `q_awq.py` that can change the output."""
    return {
        "q_group_size": params.q_group_size,
        "zero_point": params.zero_point,
        "duo_scaling": params.duo_scaling,
        "apply_clip": params.apply_clip,
        "modules_to_not_convert": list(params.modules_to_not_convert),
        "max_calib_samples": params.max_calib_samples,
        "max_calib_seq_len": params.max_calib_seq_len,
    }


def memory_words(params: CalibrationParams) -> tuple[str, ...]:
    """Those that cannot."""
    words: tuple[str, ...] = ("--chunk-mib", str(max(1, params.max_chunk_memory >> 20)))
    if params.n_parallel_calib_samples is not None:
        words += ("--parallel", str(params.n_parallel_calib_samples))
    return words
