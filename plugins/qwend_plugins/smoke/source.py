"""The source `smoke:`.

`smoke:qwen2`, `smoke:qwen3` and `smoke:qwen3moe` are untrained models of that architecture with Qwen's real
vocabulary; `smoke:data` is text, conversations or prompts. What is made follows from what reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl

import msgspec

from qwend.plugin import (
    DriverRef,
    Facts,
    Finding,
    Host,
    ImageRef,
    Launch,
    OutputRef,
    Pin,
    PinnedFile,
    Question,
    Resolution,
    Resources,
    UsageError,
    driver,
    load_image,
)

DRIVERS = Path(__file__).parent / "drivers"
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 256, 768, 4, 2, 64
EXPERTS, EXPERT_INTERMEDIATE = 4, 256
VOCABULARY, CONTEXT = 151_936, 32_768
"""The shape that `drivers/qwen_weights.py` gives its models."""
_MODEL = ("make_model.py", "qwen_vocabulary.py", "qwen_weights.py")

MODELS = ("qwen2", "qwen3", "qwen3moe")
FORMATS = {"model/gguf": "gguf", "model/safetensors": "safetensors"}
KINDS = {"dataset/sft": "sft", "dataset/text": "text", "dataset/prompts": "prompts"}
ROWS = {"text": 400, "sft": 64, "prompts": 16}
OUTTYPES = {"f32": 32.0, "bf16": 16.0, "f16": 16.0, "q8_0": 8.5}
"""Bits per weight of each."""

SPEAKS_NONSENSE = "a tiny untrained model, it talks nonsense"
_REFERENCE = re.compile(r"smoke:(?P<what>[a-z][a-z0-9]*)(?:\?(?P<query>[a-z0-9_=&]+))?")


class _Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may stand behind the question mark of a reference."""

    format: Literal["gguf", "safetensors"] | None = None
    outtype: Literal["f32", "bf16", "f16", "q8_0"] = "f16"
    layers: int = 2
    seed: int = 0
    kind: Literal["sft", "text", "prompts"] | None = None
    rows: int | None = None
    layout: Literal["messages", "alpaca", "sharegpt"] = "messages"


class Smoke:
    """Resolves at once, without network; the artifact is made by a job."""

    scheme: ClassVar[str] = "smoke"
    summary: ClassVar[str] = "A tiny model of that architecture, or small data, made on the spot"
    revision: ClassVar[int] = 1
    examples: ClassVar[tuple[str, ...]] = ("smoke:qwen2", "smoke:qwen3?format=gguf&outtype=q8_0")

    def check(self, reference: str) -> Iterable[Finding]:
        try:
            _parse(reference)
        except ValueError as error:
            yield Finding(str(error))

    def resolve(self, reference: str, options: dict[str, Any], host: Host) -> Resolution:
        what, made = _parse(reference)
        wants = [str(want) for want in options.get("wants", ())]
        if what == "data":
            return Resolution(pin=self._data(reference, made, wants))
        pin = self._model(reference, what, made, wants)
        if options.get("smoke"):
            return Resolution(pin=pin)
        notice = SPEAKS_NONSENSE
        if options.get("fallback"):
            notice = f"no hub reachable: serving {SPEAKS_NONSENSE}"
        return Resolution(pin=msgspec.structs.replace(pin, notice=notice))

    def fetch(self, pin: Pin, options: dict[str, Any], host: Host) -> Question | None:
        what, made = _parse(pin.ref)
        python, out = ImageRef("bin/python"), ("--out", OutputRef())
        image = load_image("qwend_images:smoke", "cpu")
        if what == "data":
            kind = KINDS[pin.type]
            rows = str(made.rows or ROWS[kind])
            words = ["--kind", kind, "--rows", rows, "--seed", str(made.seed), "--layout", made.layout]
            files = (driver(DRIVERS / "make_data.py"),)
            return Question(
                image, Launch(argv=(python, DriverRef("make_data.py"), *words, *out), files=files)
            )
        words = ["--architecture", what, "--format", FORMATS[pin.type], "--outtype", made.outtype]
        words += ["--layers", str(made.layers), "--seed", str(made.seed)]
        launch = Launch(
            argv=(python, DriverRef("make_model.py"), *words, *out),
            files=tuple(driver(DRIVERS / name) for name in _MODEL),
            resources=Resources(memory=1 << 30, disk=pin.facts.bytes),
        )
        return Question(image, launch)

    def _model(self, reference: str, what: str, made: _Made, wants: list[str]) -> Pin:
        kind = f"model/{made.format or 'safetensors'}"
        if made.format is None and wants:
            kind = next((want for want in wants if want in FORMATS), "")
        if not kind:
            said = f"{reference} cannot be {' or '.join(wants)}: it is made as safetensors or GGUF"
            raise UsageError(said, hint="give it a stand-in of its own: smoke: file:…")
        outtype = made.outtype if kind == "model/gguf" else "bf16"
        facts = model_facts(what, made.layers, outtype)
        identity = f"smoke:{what}/{FORMATS[kind]}/{outtype}/{made.layers}/{made.seed}/{self.revision}"
        return Pin(ref=reference, identity=identity, type=kind, facts=facts)

    def _data(self, reference: str, made: _Made, wants: list[str]) -> Pin:
        kind = f"dataset/{made.kind or 'text'}"
        if made.kind is None and wants:
            kind = next((want for want in wants if want in KINDS), "")
        if not kind:
            hint = "give it a stand-in of its own: smoke: file:…"
            raise UsageError(f"{reference} cannot be {' or '.join(wants)}", hint=hint)
        rows = made.rows or ROWS[KINDS[kind]]
        identity = f"smoke:data/{KINDS[kind]}/{rows}/{made.seed}/{made.layout}/{self.revision}"
        files = [PinnedFile("data.jsonl")] + ([PinnedFile("data.txt")] if kind == "dataset/text" else [])
        return Pin(ref=reference, identity=identity, type=kind, files=tuple(files), facts=Facts(rows=rows))


def model_facts(architecture: str, layers: int, outtype: str) -> Facts:
    """What `make_model.py` writes, from its shape: tied embeddings, and per layer attention, norms and an MLP."""
    attention = 2 * HIDDEN * HEADS * HEAD_DIM + 2 * HIDDEN * KV_HEADS * HEAD_DIM
    attention += (HEADS + 2 * KV_HEADS) * HEAD_DIM if architecture == "qwen2" else 2 * HEAD_DIM
    mlp = 3 * HIDDEN * INTERMEDIATE
    if architecture == "qwen3moe":
        mlp = EXPERTS * HIDDEN + EXPERTS * 3 * HIDDEN * EXPERT_INTERMEDIATE
    parameters = VOCABULARY * HIDDEN + HIDDEN + layers * (attention + mlp + 2 * HIDDEN)
    return Facts(
        architecture=architecture,
        parameters=parameters,
        bytes=int(parameters * OUTTYPES[outtype] / 8),
        context=CONTEXT,
        layers=layers,
        kv_heads=KV_HEADS,
        heads=HEADS,
        head_dim=HEAD_DIM,
        hidden=HIDDEN,
        vocabulary=VOCABULARY,
        bits=OUTTYPES[outtype],
        dtype="bfloat16" if outtype == "bf16" else outtype.upper(),
        template="chatml",
    )


def _parse(reference: str) -> tuple[str, _Made]:
    """What is meant, and how it is to be made. Raises ValueError with what is wrong."""
    match = _REFERENCE.fullmatch(reference)
    if match is None or match["what"] not in (*MODELS, "data"):
        raise ValueError(f"smoke: makes {', '.join(MODELS)} and data, as in smoke:qwen2?format=gguf")
    query = dict(parse_qsl(match["query"] or "", keep_blank_values=True))
    try:
        made = msgspec.convert(query, _Made, strict=False)
    except msgspec.ValidationError as error:
        said = re.sub(r" - at `\$\.(.*)`$", r" at \1", str(error))
        raise ValueError(f"smoke:{match['what']}: {said}") from None
    if not 1 <= made.layers <= 64:
        raise ValueError(f"smoke:{match['what']}: layers should be 1 to 64")
    if made.seed < 0 or not (made.rows is None or 1 <= made.rows <= 100_000):
        raise ValueError(f"smoke:{match['what']}: seed or rows is out of range")
    return match["what"], made
