"""What the engines of MLX share: image, environment, checks of the machine and the model, known failures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from qwend.plugin import (
    Facts,
    Finding,
    Given,
    Host,
    Image,
    LaunchFile,
    LogHint,
    StepView,
    ThreadsRef,
    Word,
    driver,
    load_image,
)
from qwend_plugins.serving.batches import DRIVERS as SHARED

DRIVERS = Path(__file__).parent / "drivers"
ROWS = Path(__file__).parents[1] / "llama_factory" / "drivers"
"""Whose reader decides what a row of training data may look like: the same rows train with either engine."""
FLAVOURS = ("apple", "cpu")
MODELS = ("model/mlx", "model/safetensors")
DEFAULT_CONTEXT = 8192
OLDEST_MACOS = 14
"""The wheels of MLX with Metal are built for it."""

LIBRARIES = 700 * 1024**2
"""Resident set with MLX, transformers' tokenizers and the server imported (measured on Linux: 0.55 GiB)."""

_WHOLE = 15.0
"""A model of at least so many bits per weight is not quantised."""

HINTS = (
    LogHint(
        r"\[metal::malloc\]|Insufficient Memory|kIOGPUCommandBufferCallbackErrorOutOfMemory|std::bad_alloc|MemoryError",
        "there was not enough memory",
        "a smaller model, fewer bits or a shorter context needs less",
    ),
    LogHint(
        r"\[load_safetensors\]|Invalid json header|SafetensorError",
        "a safetensors file of the model is broken or cut short",
        "qwend store verify finds damage; fetch it again",
    ),
    LogHint(
        r"No Metal device|metal::Device|no Metal|Failed to load the default metallib",
        "MLX finds no Metal here",
        "some virtual machines have none; there llama-cpp/serve answers with device: cpu",
    ),
    LogHint(r"No space left on device", "the disk is full", "qwend store prune frees what nothing refers to"),
)


def image(step: StepView) -> Image:
    return load_image("qwend_images:mlx", step.flavour)


def files(*names: str) -> tuple[LaunchFile, ...]:
    """Drivers by name: this plugin's own, and those of batches that several plugins share."""
    return tuple(driver((DRIVERS if name.startswith("mlx_") else SHARED) / name) for name in names)


def environment(step: StepView) -> dict[str, Word]:
    """Nothing is fetched by name; on a CPU no compiler is needed and the lease's threads are kept."""
    env: dict[str, Word] = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if step.flavour == "cpu":
        env["MLX_DISABLE_COMPILE"] = "1"  # on a CPU, MLX's compile calls a C++ compiler while it runs
        env |= {name: ThreadsRef() for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return env


def quantised(facts: Facts) -> bool:
    """Whether a model has fewer than 16 bits per weight."""
    return facts.bits is not None and facts.bits < _WHOLE


def machine_findings(step: StepView, host: Host) -> Iterator[Finding]:
    """What keeps MLX from this machine, or makes it slow."""
    version = re.search(r"(\d+)\.", (host.os_version or "") + ".")
    if step.flavour == "apple" and version is not None and int(version[1]) < OLDEST_MACOS:
        yield Finding(
            f"MLX needs macOS {OLDEST_MACOS} or newer, and this is {host.os_version}",
            "uses",
            "llama-cpp/serve works on older ones",
        )
    if step.flavour == "cpu" and host.system == "darwin" and host.machine != "arm64":
        yield Finding(
            "MLX is for Macs with Apple silicon, and this one has an Intel CPU", "uses", "llama-cpp/serve"
        )
    elif step.flavour == "cpu" and host.system == "darwin":
        yield Finding(
            "MLX's build for the CPU is one for Linux; on this Mac it runs with Metal",
            "device",
            "leave device out, or llama-cpp/serve",
        )
    elif step.flavour == "cpu" and host.system == "linux" and host.machine not in ("x86_64", "amd64"):
        yield Finding(
            f"MLX is locked here for x86-64 on Linux, and this machine is {host.machine}",
            "uses",
            "llama-cpp/serve",
        )


def model_findings(step: StepView) -> Iterator[Finding]:
    """What is wrong with the model for MLX."""
    facts = step.inputs[0].facts
    if facts.architecture == "qwen" and not step.trust_remote_code:
        yield Finding(
            "a checkpoint of the first Qwen brings its tokenizer as code, which is not run unasked",
            "trust_remote_code",
            "read that code, then say trust_remote_code: true; Qwen1.5 and later need none",
        )


def name_of(model: Given) -> str:
    """A model's name for people: `Qwen/Qwen2.5-0.5B-Instruct` of a hub, else the step's or source's."""
    while model.lineage:
        model = model.lineage[0]
    scheme, _, body = ("", "", "") if model.pin is None else model.pin.ref.partition(":")
    return "/".join(body.partition("@")[0].split("/")[:2]) if scheme in ("hf", "modelscope") else model.name
