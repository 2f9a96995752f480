"""The three libraries that quantise checkpoints, and the Launch that runs one of them.

Each has a driver; `q_reload.py` then holds what it wrote against the claim, loads it and lets it answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from qwend.plugin import (
    DriverRef,
    Image,
    ImageRef,
    InputRef,
    Launch,
    LaunchFile,
    LogHint,
    OutputRef,
    ProgressPattern,
    Resources,
    ScratchRef,
    StepView,
    ThreadsRef,
    Word,
    driver,
    load_image,
)
from qwend_plugins.checkpoints import both_ways

DRIVERS = Path(__file__).parent / "drivers"
_SHARED = ("q_report.py", "q_tensors.py", "q_calibration.py", "q_written.py", "q_finish.py", "q_reload.py")
_OPTIONS = "options.json"


class Backend(msgspec.Struct, frozen=True):
    """A library: its image and driver, the flavours that there are of it, the type of what it writes by method."""

    image: str
    driver: str
    flavours: tuple[str, ...]
    types: dict[str, str]


BACKENDS = {
    "autoawq": Backend("awq", "q_awq.py", ("cpu", "cuda"), {"awq": "model/awq"}),
    "gptqmodel": Backend(
        "gptq", "q_gptqmodel.py", ("cpu", "cuda", "cuda12"), {"awq": "model/awq", "gptq": "model/gptq"}
    ),
    "llm-compressor": Backend(
        "llm-compressor",
        "q_llmcompressor.py",
        ("cpu", "cuda"),
        dict.fromkeys(("awq", "gptq", "rtn"), "model/compressed-tensors"),
    ),
}

HINTS = (
    LogHint(
        r"(?:CUDA out of memory|OutOfMemoryError|can't allocate memory|std::bad_alloc|MemoryError)",
        "there was not enough memory",
        "fewer or shorter calibration samples need less; so does a smaller model, or a card with more memory",
    ),
    LogHint(r"No space left on device", "the disk is full", "qwend store prune frees what nothing refers to"),
    LogHint(
        r"(?:Cholesky|positive-definite|not positive definite)",
        "the calibration gave a matrix that cannot be inverted",
        "raise damp_percent (dampening_frac), or give it more and other texts",
    ),
    LogHint(
        r"model type `(?P<architecture>\w+)` but Transformers does not recognize",
        "this backend does not know the architecture {architecture}",
        "another backend may",
    ),
)


class Job(msgspec.Struct, frozen=True):
    """What a step asks of a backend. `options` are the driver's, `claim` what the output has to be (None: only
    scaled), `texts` the field of the calibration texts, `memory_words` the options that cannot change the output."""

    backend: str
    options: dict[str, Any]
    claim: dict[str, Any] | None
    texts: str
    memory_words: tuple[str, ...] = ()


def image(backend: str, step: StepView) -> Image:
    """The library's image in the step's flavour."""
    return load_image(f"qwend_images:{BACKENDS[backend].image}", step.flavour)


def launch(step: StepView, job: Job, resources: Resources) -> Launch:
    """The driver with its options; without network, since everything that it reads is an input."""
    name = BACKENDS[job.backend].driver
    options = json.dumps({**job.options, "claim": job.claim}, ensure_ascii=False, indent=1, sort_keys=True)
    return Launch(
        argv=(ImageRef("bin/python"), DriverRef(name), DriverRef(_OPTIONS), *_words(step, job)),
        env={
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": ScratchRef("hf"),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
            "TORCHDYNAMO_DISABLE": "1",  # compiling takes longer than the few tokens that it would speed up
            "OMP_NUM_THREADS": ThreadsRef(),
            "GPTQMODEL_CPU_WORKERS": ThreadsRef(),
        },
        files=(
            *(driver(DRIVERS / file) for file in (name, *_SHARED)),
            both_ways(),
            LaunchFile(_OPTIONS, options + "\n"),
        ),
        resources=resources,
        progress=(ProgressPattern(r"\((?P<done>\d+)/(?P<total>\d+)\): Calibrating", "calibrate", "layers"),),
        hints=HINTS,
    )


def _words(step: StepView, job: Job) -> Iterator[Word]:
    yield from ("--source", InputRef(step.inputs[0].name))
    for texts in step.given.get(job.texts, ()):
        yield from ("--texts", InputRef(texts.name))
    yield from ("--out", OutputRef())
    yield from ("--device", "cuda" if step.flavour.startswith("cuda") else "cpu")
    if job.backend != "llm-compressor":
        yield from ("--scratch", ScratchRef(job.backend))
    yield from job.memory_words
    if step.trust_remote_code:
        yield "--trust-remote-code"
