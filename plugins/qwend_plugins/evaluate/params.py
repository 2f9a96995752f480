"""Parameters that several engines of evaluate share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from qwend.plugin import Params, flag
from qwend.plugin import reference as named
from qwend_plugins.evaluate.common import MODELS

DTYPE = "number format of the weights of a checkpoint in memory; auto: 32 bits on a CPU, the checkpoint's own on a card"


class MachineParams(Params):
    """How a model is run."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = flag("--dtype", "auto", description=DTYPE)
    threads: int | None = flag(
        "--threads", None, description="CPU threads; left out: what the lease allows", fingerprint=False, ge=1
    )


class TextParams(MachineParams):
    """What perplexity is measured on."""

    context: int = flag("--ctx-size", 512, description="tokens of a window", ge=16, le=2**20)
    chunks: int | None = flag(
        "--chunks", None, description="so many windows from the beginning; left out: all of the text", ge=1
    )
    same_text: bool = Field(
        False,
        description="the text may be the one that the model was calibrated on; its figure says too much good",
    )


class SpeedParams(MachineParams):
    """Which lengths and batches are timed, in the layout of Qwen's own speed benchmark."""

    input_lengths: tuple[int, ...] = flag(
        "--input-length",
        (),
        description="tokens of the prompt; left out: 1, 512 and 2048 on a CPU, 1, 6144, 14336 and 30720 else, as far "
        "as the model's context goes",
        max_length=16,
    )
    batch_sizes: tuple[int, ...] = flag(
        "--batch-size", (1,), description="prompts at once", min_length=1, max_length=8
    )
    generate: int = flag(
        "--generate", 128, description="tokens to write; Qwen's benchmark writes 2048", ge=2, le=32_768
    )
    repeats: int = flag("--repeats", 1, description="how often each is timed; the best counts", ge=1, le=20)

    @field_validator("input_lengths", "batch_sizes")
    @classmethod
    def _positive(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if any(value < 1 for value in values):
            raise ValueError("should be 1 or more")
        if len(set(values)) < len(values):
            raise ValueError("names one twice")
        return values


class GoldenParams(MachineParams):
    """Which prompts are asked."""

    prompts: str | None = named(
        "dataset/prompts",
        "dataset/sft",
        description="the prompts; left out: eight of ours, English and Chinese",
    )
    max_tokens: int = flag("--max-tokens", 32, description="tokens of an answer at most", ge=1, le=4096)
    template: Literal["chat", "none"] = flag(
        "--template",
        "chat",
        description="how a prompt is put: by the model's chat template, or as plain text",
    )


class PerplexityParams(TextParams):
    """Parameters of evaluate/perplexity."""

    text: str = named("dataset/text", default=..., description="the text to measure on")
    save_logits: bool = flag(
        "--save-logits",
        False,
        description="keep the logits, so that a model of another format can be held to them (300 kB a scored token)",
    )


class KlDivergenceParams(TextParams):
    """Parameters of evaluate/kl-divergence."""

    reference: str = named(
        *MODELS,
        "report",
        default=...,
        description="the model to be like, or a step of evaluate/perplexity that saved its logits",
    )
    text: str | None = named("dataset/text", description="the text to measure on; a report has its own")


class SpeedOnly(SpeedParams):
    """Parameters of evaluate/speed."""


class GoldenOnly(GoldenParams):
    """Parameters of evaluate/golden."""

    reference: str | None = named(
        "report",
        description="a step of evaluate/golden whose answers these should be, of a model of any format",
    )
