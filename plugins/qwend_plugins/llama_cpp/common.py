"""What the engines of llama.cpp share: images, words of a command line, facts, known failures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from qwend.plugin import (
    DriverRef,
    Facts,
    Given,
    Image,
    ImageRef,
    InputRef,
    Join,
    LaunchFile,
    LogHint,
    OutputRef,
    Params,
    StepView,
    ThreadsRef,
    Word,
    driver,
    load_image,
)

DRIVERS = Path(__file__).parent / "drivers"
FLAVOURS = ("cpu", "apple")
GIB = 1024**3

CONVERTER = "llama-cpp-convert"
TOOLS = "llama-cpp"
SERVER = "llama-cpp-server"

OUT_OF_MEMORY = LogHint(
    r"(?:failed to allocate|insufficient memory|out of memory|cannot allocate memory|MemoryError|std::bad_alloc)",
    "there was not enough memory",
    "a smaller model, a stronger quantisation or a shorter context needs less",
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


def image(name: str, step: StepView, **options: Any) -> Image:
    """An image of llama.cpp in the step's flavour."""
    return load_image(f"qwend_images:{name}", step.flavour, options or None)


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
