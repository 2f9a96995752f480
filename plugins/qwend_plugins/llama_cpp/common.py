"""What the engines of llama.cpp share: images, words of a command line, facts, known failures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from qwend.plugin import (
    DriverRef,
    Facts,
    Finding,
    Given,
    Image,
    ImageRef,
    InputRef,
    Join,
    LaunchFile,
    LogHint,
    OutputRef,
    Params,
    Resources,
    StepView,
    ThreadsRef,
    Word,
    driver,
    load_image,
)

DRIVERS = Path(__file__).parent / "drivers"
FLAVOURS = ("cpu", "apple")
"""Of engines that convert and rewrite: that is work of the CPU."""
COMPUTING = ("cpu", "cuda", "cuda12", "apple")
"""Of engines that run a model."""
GIB = 1024**3
_CONTEXT = GIB // 2
"""What CUDA and cuBLAS take of a card before any weight."""

CONVERTER = "llama-cpp-convert"
TOOLS = "llama-cpp"
SERVER = "llama-cpp-server"

OUT_OF_MEMORY = LogHint(
    r"(?:failed to allocate|insufficient memory|out of memory|cannot allocate memory|MemoryError|std::bad_alloc)",
    "there was not enough memory",
    "a smaller model, a stronger quantisation or a shorter context needs less",
)
NO_CARD = LogHint(
    r"invalid device: (?P<device>CUDA\d+)",
    "llama.cpp sees no {device}: the driver does not answer where the step runs",
    "nvidia-smi must work there; qwend doctor says what is missing",
)
DISK_FULL = LogHint(
    r"(?:No space left on device|iostream error|failed to write|fwrite failed)",
    "the result could not be written whole: the disk is full or failing",
    "qwend store prune frees what nothing refers to",
)
BROKEN_FILE = LogHint(
    r"gguf_init_from_\w+: |data is not within the file bounds|invalid magic characters|failed to read tensor data",
    "the GGUF file is broken or cut short",
    "qwend store verify finds damage; fetch or build it again",
)
UNKNOWN_ARCHITECTURE = LogHint(
    r"unknown model architecture: '(?P<architecture>[^']*)'",
    "this build of llama.cpp does not know the architecture {architecture}",
    "a newer llama.cpp may; qwend images lock llama-cpp --upgrade takes one",
)

TOOL_HINTS = (NO_CARD, UNKNOWN_ARCHITECTURE, BROKEN_FILE, OUT_OF_MEMORY)
"""Of the tools that run a model."""


def image(name: str, step: StepView, **options: Any) -> Image:
    """An image of llama.cpp in the step's flavour."""
    return load_image(f"qwend_images:{name}", step.flavour, options or None)


def on_cards(step: StepView) -> bool:
    """Whether the step runs on NVIDIA's cards."""
    return step.flavour in ("cuda", "cuda12")


def offload(step: StepView, layers: int | None, join: str = ",") -> tuple[Word, ...]:
    """Where a tool computes: the cards of the step by name, so that one which is not there is an error and never the
    CPU instead; and how many layers they take, none on a CPU, else the user's number or the tool's own choice."""
    words: tuple[Word, ...] = ()
    if on_cards(step):
        words = ("--device", join.join(f"CUDA{index}" for index in range(step.gpus)))
    if step.flavour == "cpu":
        layers = 0
    return words if layers is None else (*words, "--n-gpu-layers", str(layers))


def resources(
    step: StepView,
    total: int | None,
    layers: int | None,
    *,
    disk: int | None = None,
    heavy: bool = False,
    note: str = "",
) -> Resources:
    """What a tool takes that needs `total` bytes: of the host, or shared out over the step's cards. How much a part
    of the layers takes of a card is not known."""
    if not on_cards(step):
        return Resources(memory=total, disk=disk, heavy=heavy, note=note)
    each = None if total is None or layers is not None else total // max(1, step.gpus) + _CONTEXT
    host = GIB if layers is None else total
    return Resources(host, each, disk, gpus=step.gpus, heavy=heavy, note=note)


def no_layers(step: StepView, layers: int | None) -> Iterator[Finding]:
    """That `n_gpu_layers` is asked for where there is no accelerator."""
    if layers and step.flavour == "cpu":
        yield Finding("this step runs on the CPU, which has no layers to take", "with.n_gpu_layers")


def gguf(given: Given) -> InputRef:
    """The one GGUF file of an input, or the first of its shards."""
    return InputRef(given.name, "*.gguf")


def named(given: Given) -> tuple[Word, ...]:
    """The option by which drivers are told a model: `--model NAME=FILE`."""
    return ("--model", Join((f"{given.name}=", gguf(given))))


def making(*command: Word) -> tuple[Word, ...]:
    """A tool that writes a GGUF into the output folder, in the driver that reads from its header what came of it."""
    return (ImageRef("bin/python"), DriverRef("make_gguf.py"), OutputRef(), "--", *command)


def drivers(*names: str) -> tuple[LaunchFile, ...]:
    """Files of the plugin's drivers."""
    return tuple(driver(DRIVERS / name) for name in names)


MAKING = ("make_gguf.py", "lc_common.py", "lc_gguf.py")


def threads(wanted: int | None) -> Word:
    """A number of threads: the user's, else what the step's lease allows."""
    return ThreadsRef() if wanted is None else str(wanted)


def flags(params: Params, *fields: str) -> Iterator[Word]:
    """The fields as the tool's own flags (`x-qwend-flag`), those with their default left out.

    True is the flag alone, False `--no-flag`; a list repeats the flag; a mapping repeats it with `key=value`.
    """
    for field in fields:
        info = type(params).model_fields[field]
        value = getattr(params, field)
        extra = info.json_schema_extra
        if value == info.default or not isinstance(extra, dict):
            continue
        name = str(extra["x-qwend-flag"])
        match value:
            case True:
                yield name
            case False:
                yield f"--no-{name.removeprefix('--')}"
            case tuple():
                for item in value:
                    yield from (name, str(item))
            case dict():
                for key, item in value.items():
                    yield from (name, f"{key}={item}")
            case _:
                yield from (name, str(value))


def origin(given: Given) -> str:
    """The name of the model that an input comes from: the repository or file that its lineage begins with."""
    while given.lineage:
        given = given.lineage[0]
    if given.pin is None:
        return given.name
    body = given.pin.ref.partition(":")[2] or given.pin.ref
    if given.pin.ref.startswith(("hf:", "modelscope:")):
        body = "/".join(body.partition("@")[0].split("/")[:2])
    name = body.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2]
    return name.removesuffix(".gguf").removesuffix(".safetensors") or given.name


def embedding_bytes(facts: Facts, element: int = 4) -> int | None:
    """Bytes of the token embeddings at `element` bytes a number: the largest tensor of a Qwen."""
    if facts.vocabulary is None or facts.hidden is None:
        return None
    return facts.vocabulary * facts.hidden * element


def rewritten(facts: Facts, dtype: str, bits: float) -> Facts:
    """The facts of the same model with its weights in another format of `bits` per weight."""
    size = None if facts.parameters is None else int(facts.parameters * bits / 8)
    extra = {key: value for key, value in facts.extra.items() if key != "tensor_types"}
    return msgspec.structs.replace(facts, dtype=dtype, bits=round(bits, 2), bytes=size, extra=extra)
