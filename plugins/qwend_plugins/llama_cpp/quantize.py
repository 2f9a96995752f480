"""`llama-cpp/quantize`: llama.cpp's own quantiser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field

from qwend.plugin import (
    Finding,
    Host,
    Image,
    ImageRef,
    Launch,
    LogHint,
    OutputRef,
    Params,
    Product,
    ProgressPattern,
    Resources,
    StepView,
    flag,
    reference,
)
from qwend_plugins.llama_cpp import common
from qwend_plugins.llama_cpp.quantisations import (
    NEEDS_IMATRIX,
    UNQUANTISED,
    TensorType,
    Type,
    bits_per_weight,
    canonical,
    fills_blocks,
    is_mixture,
)

_OVERHEAD = common.GIB // 4

_HINTS = (
    LogHint(
        r"requantizing from type (?P<type>\S+) is disabled",
        "the model is quantised already ({type})",
        "start from an f16 or bf16 GGUF, or set allow_requantize: true and accept the loss",
    ),
    LogHint(
        r"requires an (?:importance matrix|imatrix)|Missing importance matrix for tensor (?P<tensor>\S+)",
        "this quantisation needs an importance matrix",
        "give it one with imatrix:, or take a type such as Q4_K_M that needs none",
    ),
    LogHint(
        r"imatrix size (?P<have>\d+) is different from tensor size (?P<want>\d+) for (?P<tensor>\S+)",
        "the importance matrix belongs to another model ({tensor}: {have} instead of {want})",
        "make it from this model",
    ),
    LogHint(
        r"failed to load imatrix|missing imatrix metadata",
        "the importance matrix cannot be read",
        "it should be a file that llama-imatrix wrote",
    ),
    LogHint(
        r"found nan value|has invalid data|found tensors with invalid data",
        "the weights hold values that are no numbers",
        "the checkpoint or the conversion is damaged: convert again with outtype bf16 or f32",
    ),
    common.BROKEN_FILE,
    common.DISK_FULL,
    common.OUT_OF_MEMORY,
    common.UNKNOWN_ARCHITECTURE,
)


class QuantizeParams(Params):
    """Parameters of llama-quantize, by its own names."""

    type: Type = Field(
        description="what the weights become; Q4_K_M is the usual choice, Q8_0 loses next to nothing",
        json_schema_extra={"x-qwend-noun": "quantisation"},
    )
    imatrix: str | None = reference(
        "imatrix/gguf", description="importance of the weights; the smallest types need it"
    )
    allow_requantize: bool = flag(
        "--allow-requantize", False, description="quantise what is quantised already (loses quality)"
    )
    leave_output_tensor: bool = flag(
        "--leave-output-tensor", False, description="leave the output tensor as it is: larger, often better"
    )
    pure: bool = flag("--pure", False, description="one type for all tensors instead of a mixture")
    output_tensor_type: TensorType | None = flag(
        "--output-tensor-type", None, description="type of the output tensor"
    )
    token_embedding_type: TensorType | None = flag(
        "--token-embedding-type", None, description="type of the token embeddings"
    )
    tensor_type: dict[str, TensorType] = flag(
        "--tensor-type", {}, description="types of single tensors by a pattern of their names: {attn_v: q8_0}"
    )
    include_weights: tuple[str, ...] = flag(
        "--include-weights", (), description="use the importance matrix for these tensors only"
    )
    exclude_weights: tuple[str, ...] = flag(
        "--exclude-weights", (), description="do not use the importance matrix for these tensors"
    )
    override_kv: tuple[str, ...] = flag(
        "--override-kv", (), description="change metadata of the result: KEY=TYPE:VALUE"
    )
    keep_split: bool = flag("--keep-split", False, description="write as many files as were read")
    prune_layers: tuple[int, ...] = flag(
        "--prune-layers", (), description="leave these layers out of the result"
    )
    max_buffer_size: int | None = flag(
        "--max-buffer-size", None, description="MiB of a tensor in memory at once", fingerprint=False, ge=1
    )
    threads: int | None = flag(
        "nthreads", None, description="CPU threads; left out: what the lease allows", fingerprint=False, ge=1
    )


class Quantize:
    """Makes a GGUF smaller."""

    name: ClassVar[str] = "llama-cpp/quantize"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "makes a GGUF smaller by storing its weights in fewer bits (llama-quantize)"
    params: ClassVar[type[Params]] = QuantizeParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, model = _params(step), step.inputs[0]
        had = canonical((model.facts.dtype or "").upper())
        wanted = canonical(params.type)
        if had and had not in UNQUANTISED and not had.startswith("ALL ") and not params.allow_requantize:
            yield Finding(
                f"{model.name} is quantised already ({had}); quantising it again would lose quality",
                "from",
                "start from an f16 or bf16 GGUF, or set allow_requantize: true",
            )
        if wanted in NEEDS_IMATRIX and params.imatrix is None:
            yield Finding(
                f"{params.type} needs an importance matrix",
                "with.type",
                "give it one with imatrix:, or take a type such as Q2_K that needs none",
            )
        layers = model.facts.layers
        for number in params.prune_layers:
            if number < 0 or (layers is not None and number >= layers):
                yield Finding(
                    f"there is no layer {number}" + (f": the model has 0 to {layers - 1}" if layers else ""),
                    "with.prune_layers",
                )
        if params.pure and (params.tensor_type or params.output_tensor_type or params.token_embedding_type):
            yield Finding(
                "pure says one type for all tensors, and another parameter names one for some: that one wins",
                "with.pure",
                level="warning",
            )
        if params.include_weights and params.exclude_weights:
            yield Finding(
                "include_weights and exclude_weights cannot be used together", "with.exclude_weights"
            )
        if (params.include_weights or params.exclude_weights) and params.imatrix is None:
            yield Finding("says how to use an importance matrix, and there is none", "with.imatrix")
        if not fills_blocks(model.facts) and wanted not in ("Q8_0", *UNQUANTISED):
            bits = bits_per_weight(wanted, model.facts)
            yield Finding(
                f"rows of {model.facts.hidden} weights do not fill the blocks of {wanted}: most tensors get a larger "
                f"type, about {bits:.1f} bits per weight in all",
                "with.type",
                level="warning",
            )
        if wanted == "MXFP4_MOE" and model.facts.architecture and not is_mixture(model.facts):
            yield Finding(
                "MXFP4_MOE packs the experts of a mixture; this model has none and becomes Q8_0",
                "with.type",
                level="warning",
            )

    def product(self, step: StepView) -> Product:
        facts = step.inputs[0].facts
        wanted = canonical(_params(step).type)
        bits = bits_per_weight(wanted, facts)
        return Product("model/gguf", common.rewritten(facts, wanted, bits))

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(common.TOOLS, step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, model = _params(step), step.inputs[0]
        matrix = step.given.get("imatrix", ())
        return Launch(
            argv=common.making(
                ImageRef("bin/llama-quantize"),
                *common.flags(
                    params,
                    "allow_requantize",
                    "leave_output_tensor",
                    "pure",
                    "include_weights",
                    "exclude_weights",
                    "output_tensor_type",
                    "token_embedding_type",
                    "tensor_type",
                    "keep_split",
                    "override_kv",
                    "max_buffer_size",
                ),
                *(("--imatrix", common.gguf(matrix[0])) if matrix else ()),
                *(("--prune-layers", ",".join(map(str, params.prune_layers))) if params.prune_layers else ()),
                *step.extra_args,
                common.gguf(model),
                OutputRef(f"model-{canonical(params.type)}.gguf"),
                params.type,
                common.threads(params.threads),
            ),
            files=common.drivers(*common.MAKING),
            resources=self._resources(step),
            progress=(ProgressPattern(r"^\[\s*(?P<done>\d+)/\s*(?P<total>\d+)\]", "quantise", "tensors"),),
            hints=_HINTS,
        )

    def _resources(self, step: StepView) -> Resources:
        """The file is mapped; in memory lie the largest tensor as read, as 32-bit floats and as written."""
        facts = step.inputs[0].facts
        largest = common.embedding_bytes(facts, 4 + 4 + 2)
        return Resources(
            memory=None if largest is None else largest + _OVERHEAD,
            disk=self.product(step).facts.bytes,
            heavy=True,
            note="the largest tensor in three forms" if largest else "",
        )


def _params(step: StepView) -> QuantizeParams:
    assert isinstance(step.params, QuantizeParams)
    return step.params
