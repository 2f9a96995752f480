"""What the engines of LLaMA-Factory share: image, names that its own parser knows, the base of an adapter."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qwend.plugin import (
    Finding,
    Given,
    Host,
    Image,
    LaunchFile,
    LogHint,
    Params,
    ScratchRef,
    StepView,
    ThreadsRef,
    Word,
    driver,
    load_image,
)

HERE = Path(__file__).parent
DRIVERS = HERE / "drivers"
FLAVOURS = ("cpu", "cuda", "cuda12")
GIB = 1024**3
_AMPERE = (8, 0)

KNOWN: Mapping[str, Any] = json.loads((HERE / "known.json").read_text(encoding="utf-8"))
"""What the parser of the locked LLaMA-Factory knows: `templates`, arguments of `infer`, and those of `train` besides.
A test holds it to the realised image."""

TEMPLATES = {
    "qwen": "qwen", "qwen2": "qwen", "qwen2_moe": "qwen", "qwen2moe": "qwen",
    "qwen3": "qwen3", "qwen3_moe": "qwen3", "qwen3moe": "qwen3",
}  # fmt: skip
"""LLaMA-Factory's template for each architecture of Qwen that speaks text."""

HINTS = (
    LogHint(
        r"CUDA out of memory|torch\.OutOfMemoryError",
        "the card ran out of memory",
        "lower per_device_train_batch_size or cutoff_len, set quantization_bit: 4 or deepspeed: z3",
    ),
    LogHint(
        r"DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|MemoryError|std::bad_alloc",
        "there was not enough memory",
        "lower per_device_train_batch_size or cutoff_len, or take a smaller base",
    ),
    LogHint(r"No space left on device", "the disk is full", "qwend store prune frees what nothing refers to"),
)


def image(step: StepView, stage: str = "") -> Image:
    """The image in the step's flavour; for ppo the one with the trl that it is written for, else with FlashAttention
    compiled for it where the recipe says fa2."""
    flash = getattr(step.params, "flash_attn", None) == "fa2" and step.flavour == "cuda"
    name = "llama-factory-ppo" if stage == "ppo" else "llama-factory-flash" if flash else "llama-factory"
    return load_image(f"qwend_images:{name}", step.flavour)


def flash_findings(step: StepView, host: Host) -> Iterator[Finding]:
    """Where the FlashAttention that is asked for cannot be had. On a CPU the engine leaves it out and warns."""
    asked = getattr(step.params, "flash_attn", None)
    if asked not in ("fa2", "fa3") or step.flavour == "cpu":
        return
    old = [gpu for gpu in host.gpus if gpu.capability is not None and gpu.capability < _AMPERE]
    if asked == "fa3":
        yield Finding("there is no build with FlashAttention 3", "with.flash_attn", "fa2, or sdpa")
    elif getattr(step.params, "stage", None) == "ppo":
        yield Finding("the build for ppo has no FlashAttention", "with.flash_attn", "sdpa")
    elif step.flavour != "cuda":
        text = f"FlashAttention is compiled by CUDA 13's nvcc, and this step runs on {step.flavour}"
        yield Finding(text, "with.flash_attn", "sdpa, which every card serves")
    elif old:
        major, minor = old[0].capability or (0, 0)
        yield Finding(
            f"FlashAttention needs compute capability 8.0, and gpu {old[0].index} ({old[0].name}) has {major}.{minor}",
            "with.flash_attn",
            "sdpa, which every card serves",
        )


def environment() -> dict[str, Word]:
    """What every driver gets: no network, caches in the step's scratch folder."""
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "USE_MODELSCOPE_HUB": "0",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": ThreadsRef(),
        "HF_HOME": ScratchRef("hf"),
        "MPLCONFIGDIR": ScratchRef("matplotlib"),
        "TRITON_CACHE_DIR": ScratchRef("triton"),
        "TORCHINDUCTOR_CACHE_DIR": ScratchRef("inductor"),
    }


def drivers(*names: str) -> tuple[LaunchFile, ...]:
    """Files of the plugin's `drivers` folder."""
    return tuple(driver(DRIVERS / f"{name}.py") for name in names)


def told(params: Params, *, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """The parameters under LLaMA-Factory's own names, defaults included: an upgrade of it changes none of them.

    Lists become what it splits again (`q_proj,v_proj`); None is left to it.
    """
    found = {}
    for field, info in type(params).model_fields.items():
        extra = info.json_schema_extra
        value = getattr(params, field)
        if field in leave_out or value is None or not isinstance(extra, dict) or "x-qwend-flag" not in extra:
            continue
        found[str(extra["x-qwend-flag"])] = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return found


def unrecorded(params: Params) -> Iterator[tuple[str, Any]]:
    """Those of `told` that cannot change the output, and so stand in the command and not in a file of the step."""
    for name, value in told(params).items():
        extra = type(params).model_fields[name].json_schema_extra
        if isinstance(extra, dict) and extra.get("x-qwend-fingerprint") is False:
            yield name, value


def more_findings(
    params: Any, extra_args: Iterable[str], known: Iterable[str], taken: Iterable[str]
) -> Iterator[Finding]:
    """What is wrong with `arguments` and `extra_args`: names that its parser lacks, or that have a field here."""
    own = {*taken, *type(params).model_fields}
    given = [(name, "with.arguments") for name in params.arguments]
    for word in extra_args:
        if "=" not in word:
            yield Finding(f"{word} should be written as name=value", "extra_args")
        else:
            given.append((word.partition("=")[0].lstrip("-"), "extra_args"))
    names = sorted(set(known))
    for name, key in given:
        if name in type(params).model_fields:
            yield Finding(f"{name} is a parameter of its own", key, f"write it under with: {name}: …")
        elif name in own:
            yield Finding(f"{name} is set by qwend", key)
        elif name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = (
                f"did you mean {close[0]}?"
                if close
                else f"its parser ({KNOWN['version']}) knows {len(names)} others"
            )
            yield Finding(f"LLaMA-Factory has no argument {name}", key, hint)


def extras(params: Any, extra_args: Iterable[str]) -> dict[str, Any]:
    """`arguments` and `extra_args` as one mapping; a word's value is read as JSON where it is some."""
    found = dict(params.arguments)
    for word in extra_args:
        name, _, value = word.partition("=")
        try:
            found[name.lstrip("-")] = json.loads(value)
        except ValueError:
            found[name.lstrip("-")] = value
    return found


def template_findings(template: str | None, model: Given | None) -> Iterator[Finding]:
    """A template that LLaMA-Factory lacks, or none where it does not follow from the model."""
    if template is not None and template not in KNOWN["templates"]:
        close = difflib.get_close_matches(template, KNOWN["templates"], 1)
        hint = (
            f"did you mean {close[0]}?"
            if close
            else f"it knows {len(KNOWN['templates'])}, qwen and qwen3 among them"
        )
        yield Finding(f"LLaMA-Factory has no template {template}", "with.template", hint)
    elif template is None and model is not None and template_of(model) is None:
        what = model.facts.architecture or "unknown"
        yield Finding(
            f"the template does not follow from the model (architecture: {what})",
            "with.template",
            "say template: qwen",
        )


def template_of(model: Given) -> str | None:
    """The template that a model was trained with, else the one of its architecture; None if neither is known."""
    for one in line(model):
        if one.engine == "llama-factory/train" and one.params.get("template"):
            return str(one.params["template"])
    found = TEMPLATES.get(model.facts.architecture or "")
    if found is None and "qwen" in (name := name_of(model).lower()):
        found = "qwen3" if "qwen3" in name.replace("-", "") else "qwen"
    return found


def line(model: Given) -> Iterator[Given]:
    """A model, what it was made from, and so on to the source."""
    yield model
    while parent := next((one for one in model.lineage if one.type.startswith(("model/", "adapter/"))), None):
        model = parent
        yield model


def base_of(adapter: Given) -> Given | None:
    """The model that an adapter belongs to, from how it was made; None for an adapter from elsewhere."""
    return next((one for one in line(adapter) if one.type.startswith("model/")), None)


def name_of(model: Given) -> str:
    """A model's name for people: `Qwen/Qwen2.5-0.5B-Instruct` of a hub, else the end of its path, else the step's."""
    pin = list(line(model))[-1].pin
    if pin is None:
        return model.name
    scheme, _, body = pin.ref.partition(":")
    if scheme in ("hf", "modelscope"):
        return "/".join(body.partition("@")[0].split("/")[:2])
    return body.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2] or model.name


def checkpoint(step: int | None) -> str:
    """The folder, in an adapter's artifact, of its weights at a step of the training; empty: of those at the end."""
    return "" if step is None else f"checkpoint-{step}"


def json_file(name: str, content: Mapping[str, Any]) -> LaunchFile:
    """A file of the step that its driver reads; it counts in the fingerprint."""
    return LaunchFile(name, json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
