"""`llama-cpp/convert`: a checkpoint in safetensors becomes a GGUF."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import ClassVar, Literal

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    LaunchFile,
    LogHint,
    OutputRef,
    Params,
    Product,
    ProgressPattern,
    Resources,
    StepView,
    flag,
)
from qwend_plugins.llama_cpp import common
from qwend_plugins.llama_cpp.quantisations import SIZES, bits_per_weight

_TORCH = common.GIB + common.GIB // 4
"""Resident set of the converter with torch and transformers imported, before any tensor (measured: 0.9 GiB)."""

_OUTTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "tq1_0": "TQ1_0", "tq2_0": "TQ2_0"}

_HINTS = (
    LogHint(
        r"Model (?P<architecture>\S+) is not supported",
        "the converter does not know the architecture {architecture}",
        "serve the checkpoint with another engine, or upgrade the image: qwend images lock llama-cpp-convert --upgrade",
    ),
    LogHint(
        r"BPE pre-tokenizer was not recognized",
        "the converter does not know this model's tokenizer",
        "it was changed or is newer than this llama.cpp: keep the base model's tokenizer files, or upgrade the image",
    ),
    LogHint(
        r"Can not map tensor '(?P<tensor>[^']+)'",
        "the converter has no place for the tensor {tensor}",
        "is this a whole model? An adapter is merged first",
    ),
    LogHint(
        r"Quant method is not yet supported: '(?P<method>[^']+)'",
        "the checkpoint is quantised ({method}), which the converter cannot read",
        "convert the unquantised model",
    ),
    common.DISK_FULL,
    common.OUT_OF_MEMORY,
)


class ConvertParams(Params):
    """Parameters of convert_hf_to_gguf.py, by its own names."""

    outtype: Literal["auto", "f16", "bf16", "f32", "q8_0", "tq1_0", "tq2_0"] = flag(
        "--outtype", "auto", description="number format of the GGUF; auto: the checkpoint's own 16 bits"
    )
    model_name: str | None = flag(
        "--model-name",
        None,
        description="name in the metadata; left out: the source's",
        min_length=1,
        max_length=200,
    )
    split_max_size: str | None = flag(
        "--split-max-size",
        None,
        description="split into files of at most this size: 4G, 500M",
        pattern=r"^\d+[MG]$",
    )
    split_max_tensors: int | None = flag(
        "--split-max-tensors", None, description="split into files of at most so many tensors", ge=1
    )
    use_temp_file: bool = flag(
        "--use-temp-file", False, description="less memory, more disk while converting", fingerprint=False
    )
    no_lazy: bool = flag(
        "--no-lazy", False, description="read all tensors before writing (much memory)", fingerprint=False
    )
    fp8_as_q8: bool = flag("--fp8-as-q8", False, description="store FP8 tensors as Q8_0 instead of 16 bits")
    no_mtp: bool = flag(
        "--no-mtp", False, description="leave out the layers that only predict several tokens at once"
    )


class Convert:
    """Makes a GGUF of a checkpoint."""

    name: ClassVar[str] = "llama-cpp/convert"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "makes a GGUF of a Hugging Face checkpoint (convert_hf_to_gguf.py)"
    params: ClassVar[type[Params]] = ConvertParams
    accepts: ClassVar[tuple[str, ...]] = ("model/safetensors",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, model = _params(step), step.inputs[0]
        if model.facts.architecture == "qwen" and not step.trust_remote_code:
            yield Finding(
                "a checkpoint of the first Qwen brings its tokenizer as code, which is not run unasked",
                "trust_remote_code",
                "read that code, then say trust_remote_code: true; Qwen1.5 and later need none",
            )
        if params.outtype in ("tq1_0", "tq2_0"):
            yield Finding(
                f"{params.outtype} is for models trained with ternary weights; any other is ruined by it",
                "with.outtype",
                level="warning",
            )

    def product(self, step: StepView) -> Product:
        facts = step.inputs[0].facts
        dtype = self._dtype(step)
        bits = bits_per_weight(dtype, facts)
        return Product("model/gguf", common.rewritten(facts, dtype, bits))

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.CONVERTER, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, model = _params(step), step.inputs[0]
        options = ("outtype", "split_max_size", "split_max_tensors", "use_temp_file", "no_lazy", "fp8_as_q8")
        return Launch(
            argv=(
                ImageRef("bin/python"),
                DriverRef("convert.py"),
                ImageRef("share/llama.cpp/convert_hf_to_gguf.py"),
                *(("--trust-remote-code",) if step.trust_remote_code else ()),
                "--",
                InputRef(model.name),
                "--outfile",
                OutputRef("model-{FTYPE}.gguf"),
                "--metadata",
                DriverRef("metadata.json"),
                *common.flags(params, *options),
                *(("--no-mtp",) if params.no_mtp else ()),
                *step.extra_args,
            ),
            env={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
            files=(
                *common.drivers("convert.py", *common.MAKING),
                _metadata(params.model_name or common.origin(model)),
            ),
            resources=self._resources(step),
            progress=(
                ProgressPattern(r"Writing: +(?P<percent>\d+)%", "write"),
                ProgressPattern(r"Loading checkpoint shards: +(?P<percent>\d+)%", "read"),
            ),
            hints=_HINTS,
        )

    def _dtype(self, step: StepView) -> str:
        wanted = _params(step).outtype
        if wanted != "auto":
            return _OUTTYPES[wanted]
        # as the converter does: bfloat16 stays, anything else becomes f16
        return "BF16" if step.inputs[0].facts.dtype in ("bfloat16", "bf16") else "F16"

    def _resources(self, step: StepView) -> Resources:
        """Tensors are converted one by one: the largest lies in memory as read, as 32-bit floats and as written."""
        facts = step.inputs[0].facts
        whole = facts.bytes if _params(step).no_lazy else common.embedding_bytes(facts, 2 + 4 + 4)
        return Resources(
            memory=None if whole is None else whole + _TORCH,
            disk=self.product(step).facts.bytes,
            heavy=True,
            note="" if whole is None else "torch and the largest tensor in three forms",
        )


def _metadata(name: str) -> LaunchFile:
    """What the converter would else guess from the name of the folder, which in a store means nothing."""
    said = {"general.name": name, "general.basename": None, "general.version": None, "general.finetune": None}
    return LaunchFile("metadata.json", json.dumps(said, ensure_ascii=False, indent=1) + "\n")


def _params(step: StepView) -> ConvertParams:
    assert isinstance(step.params, ConvertParams)
    return step.params


assert set(_OUTTYPES.values()) <= set(SIZES), "every output type has a size"
