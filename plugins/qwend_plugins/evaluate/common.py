"""What the engines of evaluate share: families of formats, images, the command line of the driver, checks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from qwend.plugin import (
    DriverRef,
    Finding,
    Given,
    Image,
    ImageRef,
    InputRef,
    Join,
    Launch,
    LaunchFile,
    OutputRef,
    Resources,
    ScratchRef,
    StepView,
    ThreadsRef,
    Word,
    driver,
    estimate,
    load_image,
)
from qwend_plugins.serving.batches import DRIVERS as SHARED

DRIVERS = Path(__file__).parent / "drivers"
GIB = 1024**3
FLAVOURS = ("cpu", "cuda", "cuda12", "apple")
FAMILIES = {
    "model/gguf": "gguf",
    "model/safetensors": "torch",
    "model/compressed-tensors": "torch",
    "model/gptq": "torch",
    "model/awq": "torch",
    "model/mlx": "mlx",
}
MODELS = tuple(FAMILIES)
DEVICES = {"cpu": "cpu", "cuda": "cuda", "cuda12": "cuda", "apple": "mps"}
BUILT = {"gguf": FLAVOURS, "torch": FLAVOURS, "mlx": ("cpu", "apple")}
"""Flavours that a family has an image for."""

_ANYWHERE = ("ev_common.py", "ev_table.py", "ev_golden.py", "ev_talk.py")
_OWN = {
    "gguf": ("ev_llama.py", "ev_server.py"),
    "torch": ("ev_subject.py", "ev_windows.py", "ev_numbers.py", "ev_hf.py", "ev_torch.py", "hf_packed.py"),
    "mlx": ("ev_subject.py", "ev_windows.py", "ev_numbers.py", "ev_hf.py", "ev_mlx.py"),
}
_LIBRARIES = {"gguf": GIB // 8, "torch": GIB, "mlx": GIB // 2}
"""Resident set before any weight."""

QUALITY = ("perplexity", "perplexity_error")
APART = (
    "perplexity_ratio", "mean_kld", "mean_kld_error", "median_kld", "p99_kld", "max_kld", "same_top", "rms_dp",
)  # fmt: skip
ANSWERED = ("golden_same", "golden_prompts_same", "golden_tokens")


def family(models: Iterable[Given]) -> str | None:
    """The family that all of the models are of; None if they are of several."""
    found = {FAMILIES[model.type] for model in models if model.type in FAMILIES}
    return found.pop() if len(found) == 1 else None


def image(step: StepView, models: Sequence[Given]) -> Image:
    """What runs the models. GPTQ and AWQ are read by GPTQModel's kernels, which the gptq image holds."""
    kind = family(models) or "gguf"
    flavour = step.flavour if step.flavour in BUILT[kind] else "cpu"  # `placed` refuses it
    if kind == "gguf":
        return load_image("qwend_images:llama-cpp", flavour)
    if kind == "mlx":
        return load_image("qwend_images:mlx", flavour)
    packed = flavour != "apple" and any(model.type in ("model/gptq", "model/awq") for model in models)
    return load_image("qwend_images:gptq" if packed else "qwend_images:transformers", flavour)


def placed(step: StepView, models: Sequence[Given], key: str = "from") -> Iterator[Finding]:
    """Models of one family, on a device that the family has an image for."""
    kinds = {FAMILIES[model.type]: model for model in models if model.type in FAMILIES}
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        yield Finding(
            f"{one.name} ({one.type}) and {other.name} ({other.type}) are run by different programs",
            key,
            "measure each in a step of its own and compare the steps: evaluate/compare reads reports, too",
        )
    for kind, model in kinds.items():
        if step.flavour not in BUILT[kind]:
            yield Finding(
                f"{model.type} is measured on {' or '.join(BUILT[kind])}, and this step is for {step.flavour}",
                "device",
                "say device: cpu at the step",
            )
    packed = next((model for model in models if model.type in ("model/gptq", "model/awq")), None)
    if packed is not None and step.flavour == "apple":
        yield Finding(f"{packed.type} has no kernels for Metal", key, "device: cpu measures it, slowly")


def one_text(text: Given, models: Sequence[Given], allowed: bool) -> Iterator[Finding]:
    """The text that a model was calibrated on tells nothing about it."""
    measured = {pin for pin in _pins(text) if not pin.startswith("smoke:")}
    if allowed or not measured:
        return
    for model in models:
        for maker in _makers(model):
            used = [given for given in maker if given.type.startswith("dataset/")]
            if any(measured & _pins(given) for given in used):
                yield Finding(
                    f"{text.name} has calibrated {model.name}: a figure on it says too much good",
                    "with.text",
                    "measure on another text or split, or say same_text: true",
                )
                break


def _pins(given: Given) -> set[str]:
    """What a data set comes from."""
    if given.pin is not None:
        return {given.pin.identity}
    return {pin for one in given.lineage for pin in _pins(one)}


def _makers(model: Given) -> Iterator[tuple[Given, ...]]:
    """What the steps read that made a model, and those that made an importance matrix for it."""
    pending = [model]
    seen: set[str] = set()
    while pending:
        one = pending.pop()
        if one.name not in seen:
            seen.add(one.name)
            yield one.lineage
            pending += [below for below in one.lineage if not below.type.startswith("dataset/")]


def launch(
    step: StepView,
    models: Sequence[Given],
    measures: Sequence[str],
    words: Iterable[Word],
    *,
    dtype: str = "auto",
    threads: int | None = None,
    context: int = 512,
    disk: int | None = None,
) -> Launch:
    """The driver over the models. `words` are options of the measures, `context` the tokens at once at most."""
    kind = family(models) or "gguf"
    argv: list[Word] = [ImageRef("bin/python"), DriverRef("measure.py"), "--family", kind]
    if kind == "gguf":
        argv += ["--tools", ImageRef("bin")]
    for model in models:
        argv += ["--model", _named(model)]
        if model.facts.parameters:
            argv += ["--parameters", f"{model.name}={model.facts.parameters}"]
    for measure in measures:
        argv += ["--measure", measure]
    if len(step.inputs) == 1:
        argv += ["--about", step.inputs[0].name]
    argv += ["--device", DEVICES[step.flavour] if kind == "torch" else "cpu", "--dtype", dtype]
    argv += ["--threads", ThreadsRef() if threads is None else str(threads), *words]
    if step.trust_remote_code:
        argv.append("--trust-remote-code")
    for extra in step.extra_args:
        argv.append(f"--extra={extra}")
    argv += ["--scratch", ScratchRef("work"), "--out", OutputRef()]
    env: dict[str, Word] = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    if kind == "gguf" and step.flavour.startswith("cuda"):
        # A card by name: one that is not there is an error, and never the CPU instead.
        env["LLAMA_ARG_DEVICE"] = ",".join(f"CUDA{index}" for index in range(step.gpus))
    return Launch(
        argv=tuple(argv),
        env=env,
        files=(
            names_file(models),
            *(driver(_place(name)) for name in ("measure.py", *_ANYWHERE, *_OWN[kind])),
        ),
        resources=_resources(step, models, kind, context, dtype, disk),
    )


def _place(name: str) -> Path:
    return (SHARED if name.startswith("hf_") else DRIVERS) / name


def names_file(models: Iterable[Given]) -> LaunchFile:
    """The names of what is measured. Figures go by them, so a renamed step is measured again: a file counts in the
    fingerprint, a name does not."""
    return LaunchFile("names.json", json.dumps([model.name for model in models]))


def _named(model: Given) -> Word:
    return Join((f"{model.name}=", InputRef(model.name)))


def _resources(
    step: StepView, models: Sequence[Given], kind: str, context: int, dtype: str, disk: int | None
) -> Resources:
    """Models come one after the other: the largest decides, with the logits of half a window."""
    wide = kind == "torch" and (dtype == "float32" or (dtype == "auto" and step.flavour == "cpu"))
    needs: list[int] = []
    for model in models:
        bits = 32.0 if wide and model.type == "model/safetensors" else None
        told = estimate(model.facts, context, bits=bits)
        if told is not None:
            needs.append(told.total + 4 * (model.facts.vocabulary or 0) * min(context, 2048))
    most = max(needs) if needs and len(needs) == len(models) else None
    note = f"the largest of {len(models)} models, one after the other" if len(models) > 1 else ""
    if step.flavour.startswith("cuda"):
        each = None if most is None else most // max(1, step.gpus)
        return Resources(_LIBRARIES[kind] + 2 * GIB, each, disk, gpus=step.gpus, heavy=True, note=note)
    return Resources(None if most is None else most + _LIBRARIES[kind], disk=disk, heavy=True, note=note)


def logits_bytes(models: Sequence[Given], context: int, chunks: int | None) -> int | None:
    """Size of a file of logits; unknown for all windows of a text."""
    vocabulary = models[0].facts.vocabulary
    if vocabulary is None or chunks is None:
        return None
    return chunks * (context - 1 - context // 2) * 2 * (vocabulary + 5)
