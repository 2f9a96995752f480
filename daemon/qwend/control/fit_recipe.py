"""The recipe that serves a model in a form that fits: what `qwend fit` prints, ready for `qwend up -f -`. Pure text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from qwend.core.fit import Fit, Format

_CALIBRATION = """\
datasets:
  calib:                      # texts of the kind that the model will see are better
    from: "modelscope:modelscope/wikitext?subset=wikitext-2-raw-v1&split=train"
    column: text
    sample: 200
    seed: 42
"""
_SERVERS = {
    "model/gguf": ("llama-cpp/serve",),
    "model/mlx": ("mlx/serve",),
    "model/safetensors": ("vllm/serve", "transformers/serve"),
}
_OTHERS = ("vllm/serve", "transformers/serve")
_CONTEXT = {"llama-cpp/serve": "context", "vllm/serve": "max_model_len"}
"""What an engine calls the length of its context, where it has a word for it."""


def advised(fits: Sequence[Fit], served: Iterable[str]) -> Fit | None:
    """The form to take: one that fits and that somebody here serves; of those the best on the first card, else in
    memory the best GGUF of 8 bits or less, which a CPU reads fastest. None where nothing fits."""
    known = set(served)
    fitting = [one for one in fits if one.verdict == "fits" and one.format.type in known]
    cards = [one for one in fitting if one.place.startswith("gpu")]
    small = [one for one in fitting if one.format.type == "model/gguf" and one.format.bits < 9]
    return next(iter([*cards, *small, *fitting]), None)


def recipe(
    reference: str,
    kind: str,
    chosen: Fit,
    context: int,
    engines: Sequence[str],
    *,
    quantised: bool = False,
    aside: bool = False,
) -> str:
    """From the reference to a service that has this form. `kind` is the reference's own type, which is kept as it is
    where it is `quantised`; `engines` serve the form here; `aside` leaves the machine's cards alone."""
    steps, made = _making(kind, chosen.format, quantised)
    server = _server(chosen, engines)
    options = f", with: {{{_CONTEXT[server]}: {context}}}" if server in _CONTEXT else ""
    device = ", device: cpu" if aside else ""
    data = _CALIBRATION if any("calib" in step for step in steps) else ""
    lines = [*steps, f"chat: {{uses: {server}, from: {made}{options}{device}}}"]
    return (
        f"version: 1\nname: fitted\nmodels: {{model: {json.dumps(reference, ensure_ascii=False)}}}\n{data}steps:\n"
        + "".join(f"  {line}\n" for line in lines)
    )


def _server(chosen: Fit, engines: Sequence[str]) -> str:
    """A checkpoint is served by vLLM on a card and by transformers in memory."""
    wanted = _SERVERS.get(chosen.format.type, _OTHERS)
    if chosen.format.type == "model/safetensors" and not chosen.place.startswith("gpu"):
        wanted = wanted[::-1]
    return next((name for name in wanted if name in engines), engines[0])


def _making(kind: str, form: Format, quantised: bool) -> tuple[list[str], str]:
    """The steps between a reference of this type and the form, and the name of the last."""
    if quantised or (kind == form.type and form.bits == 16.0):
        return [], "model"
    bits = form.name.partition(" ")[0]
    match form.type:
        case "model/gguf":
            first = (
                []
                if kind == "model/gguf"
                else ["f16: {uses: llama-cpp/convert, from: model, with: {outtype: f16}}"]
            )
            source = "model" if kind == "model/gguf" else "f16"
            if form.name == "F16":
                return first, source
            step = f"small: {{uses: llama-cpp/quantize, from: {source}, with: {{type: {form.name}}}}}"
            return [*first, step], "small"
        case "model/compressed-tensors":
            step = "small: {uses: llm-compressor/quantize, from: model, with: {scheme: FP8_DYNAMIC}}"
        case "model/gptq":
            step = f"small: {{uses: gptq/quantize, from: model, with: {{bits: {bits}, calibration: calib}}}}"
        case "model/awq":
            step = f"small: {{uses: awq/quantize, from: model, with: {{w_bit: {bits}, calib_data: calib}}}}"
        case _:
            step = f"small: {{uses: mlx/convert, from: model, with: {{q_bits: {bits}}}}}"
    return [step], "small"
