"""What the engines share that run a model over a text: parameters, checks, memory, words of the command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from qwend.plugin import (
    DriverRef,
    Finding,
    ImageRef,
    InputRef,
    Launch,
    OutputRef,
    Params,
    ScratchRef,
    StepView,
    Word,
    estimate,
    flag,
    reference,
)
from qwend_plugins.llama_cpp import common

_LOGITS = 2
"""Bytes of one logit in the file that a reference leaves: 16 bits (llama-perplexity, `log_probs`)."""


class TextParams(Params):
    """Parameters that llama-perplexity and llama-imatrix have in common, by their own names."""

    text: str = reference("dataset/text", default=..., description="the text that the model reads")
    context: int = flag("--ctx-size", 512, description="tokens of a window", ge=8, le=2**20)
    chunks: int | None = flag("--chunks", None, description="so many windows; left out: the whole text", ge=1)
    batch_size: int | None = flag("--batch-size", None, description="tokens taken at once", ge=1)
    ubatch_size: int | None = flag("--ubatch-size", None, description="tokens computed at once", ge=1)
    flash_attn: Literal["auto", "on", "off"] = flag("--flash-attn", "auto", description="flash attention")
    n_gpu_layers: int | None = flag(
        "--n-gpu-layers", None, description="layers on the accelerator; left out: as many as fit", ge=0
    )
    threads: int | None = flag(
        "--threads", None, description="CPU threads; left out: what the lease allows", fingerprint=False, ge=1
    )


def text_findings(step: StepView) -> Iterator[Finding]:
    """What is wrong with the windows, as far as headers tell."""
    params = _params(step)
    for model in step.inputs:
        trained = model.facts.context
        if trained is not None and params.context > trained:
            yield Finding(
                f"windows of {params.context} tokens are beyond what {model.name} was trained for ({trained})",
                "with.context",
            )
    for text in step.given.get("text", ()):
        size = text.facts.bytes
        # A token is at least one byte: fewer bytes than two windows have tokens cannot be enough.
        if size is not None and size < 2 * params.context:
            yield Finding(
                f"{text.name} has {size} bytes, which cannot hold two windows of {params.context} tokens",
                "with.text",
                "take a longer text, or a smaller context",
            )
    yield from common.no_layers(step, params.n_gpu_layers)
    if params.ubatch_size and params.ubatch_size > (params.batch_size or 2048):
        yield Finding(f"is more than batch_size ({params.batch_size or 2048})", "with.ubatch_size")


def same_vocabulary(step: StepView) -> Iterator[Finding]:
    """Models that are compared token by token need one vocabulary."""
    first = step.inputs[0]
    for other in step.inputs[1:]:
        if (
            None not in (first.facts.vocabulary, other.facts.vocabulary)
            and first.facts.vocabulary != other.facts.vocabulary
        ):
            yield Finding(
                f"{other.name} has a vocabulary of {other.facts.vocabulary}, {first.name} one of "
                f"{first.facts.vocabulary}: their predictions cannot be compared",
                "from",
                "compare forms of one model",
            )


def text_launch(step: StepView, what: str, tool: str, *more: Word, disk: int | None = None) -> Launch:
    """The driver that feeds a text to a tool; `more` are words for the tool, before those of the user."""
    params = _params(step)
    models: Iterable[Word] = (word for model in step.inputs for word in common.named(model))
    return Launch(
        argv=(
            ImageRef("bin/python"),
            DriverRef("measure_text.py"),
            what,
            "--tool",
            ImageRef(f"bin/{tool}"),
            "--text",
            InputRef(step.given["text"][0].name),
            "--out",
            OutputRef(),
            "--scratch",
            ScratchRef(),
            *models,
            "--",
            "--ctx-size",
            str(params.context),
            *common.flags(params, "chunks", "batch_size", "ubatch_size", "flash_attn"),
            *common.offload(step, params.n_gpu_layers),
            "--threads",
            common.threads(params.threads),
            *more,
            *step.extra_args,
        ),
        files=common.drivers("measure_text.py", "lc_common.py"),
        resources=common.resources(
            step, _memory(step), params.n_gpu_layers, disk=disk, heavy=True, note="weights, cache and logits"
        ),
        hints=common.TOOL_HINTS,
    )


def logits_bytes(step: StepView) -> int | None:
    """The file of a reference's logits: half of each window is scored, 16 bits for each token of the vocabulary."""
    params, vocabulary = _params(step), step.inputs[0].facts.vocabulary
    if vocabulary is None or params.chunks is None:
        return None
    return params.chunks * (params.context // 2) * vocabulary * _LOGITS


def _memory(step: StepView) -> int | None:
    """The largest model, with the logits of one batch as 32-bit floats."""
    params = _params(step)
    needs = [estimate(model.facts, params.context) for model in step.inputs]
    vocabulary = step.inputs[0].facts.vocabulary
    if vocabulary is None or any(need is None for need in needs):
        return None
    return max(need.total for need in needs if need is not None) + 4 * vocabulary * params.context


def _params(step: StepView) -> TextParams:
    assert isinstance(step.params, TextParams)
    return step.params
