"""`llama-factory/serve` and `/chat`: a model, or an adapter on its base, as it was trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import Field

from qwend.plugin import (
    BindRef,
    DriverRef,
    Finding,
    Given,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    Params,
    PortRef,
    Resources,
    SecretRef,
    StepView,
    Word,
    driver,
    flag,
    reference,
)
from qwend_plugins.llama_factory import common
from qwend_plugins.serving import API_KEY, chat_probe
from qwend_plugins.serving.batches import DRIVERS as SHARED

OURS = (
    "model_name_or_path", "adapter_name_or_path", "export_dir", "finetuning_type", "stage", "trust_remote_code",
    "cache_dir", "offload_folder", "hf_hub_token", "ms_hub_token", "om_hub_token", "infer_backend",
    "num_beams", "length_penalty", "skip_special_tokens",
)  # fmt: skip
_DRIVERS = ("lf_report", "lf_tensors", "lf_infer")
_QUIET = {"LLAMAFACTORY_VERBOSITY": "ERROR", "TRANSFORMERS_VERBOSITY": "error"}
"""What would else stand between questions and answers."""
_FRONT = ("openai_http", "openai_worker", "openai_shapes", "openai_requests", "answer_text", "hf_generate")


class InferParams(Params):
    """Parameters of `llamafactory-cli chat` and `api`, by their own names."""

    base: str | None = reference(
        "model/safetensors",
        description="an adapter's base; left out: the one it was trained on, from its provenance",
    )
    checkpoint: int | None = Field(
        None, ge=1, description="the adapter as it was at this checkpoint of its training"
    )
    template: str | None = flag(
        "template",
        None,
        description="chat template by LLaMA-Factory's name; left out: the one it was trained with",
    )
    infer_dtype: Literal["auto", "float16", "bfloat16", "float32"] = flag(
        "infer_dtype", "auto", description="number format of the weights while serving"
    )
    default_system: str | None = flag(
        "default_system", None, description="system prompt where a request has none"
    )
    enable_thinking: bool = flag("enable_thinking", True, description="thinking mode of reasoning templates")
    max_new_tokens: int = flag("max_new_tokens", 1024, description="most tokens of an answer", ge=1)
    do_sample: bool = flag("do_sample", True, description="draw tokens; false: always the likeliest")
    temperature: float = flag("temperature", 0.95, description="higher: more varied", gt=0, le=10)
    top_p: float = flag("top_p", 0.7, description="draw among the likeliest tokens of this share", gt=0, le=1)
    top_k: int = flag("top_k", 50, description="draw among so many tokens", ge=1)
    repetition_penalty: float = flag(
        "repetition_penalty", 1.0, description="above 1: fewer repetitions", gt=0
    )
    quantization_bit: Literal[4, 8] | None = flag(
        "quantization_bit", None, description="weights in 4 or 8 bit (bitsandbytes, CUDA)"
    )
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2", "fa3"] = flag(
        "flash_attn",
        "auto",
        description="attention; fa2 takes an image with FlashAttention compiled, from compute capability 8.0",
    )
    arguments: dict[str, Any] = Field(
        {}, description="any other argument of LLaMA-Factory, checked against its parser"
    )


class ServeParams(InferParams):
    """What a server has besides."""

    context: int | None = Field(
        None,
        description="tokens of question and answer together; left out: what the model was trained for",
        ge=64,
        le=2**24,
    )
    served_model_name: tuple[str, ...] = Field(
        (), description="more names under which the model answers, besides the step's"
    )


class _Infer:
    params: ClassVar[type[Params]] = InferParams
    accepts: ClassVar[tuple[str, ...]] = ("adapter/lora", "model/safetensors")
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS
    revision: ClassVar[int] = 1

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, given = _params(step), step.inputs[0]
        model = _model(step)
        if model is None:
            yield Finding(
                f"{given.name} comes from elsewhere: its base is not known",
                "from",
                "name it: with: {base: …}",
            )
        for field in ("base", "checkpoint") if given.type != "adapter/lora" else ():
            if getattr(params, field) is not None:
                yield Finding(f"{field} is for an adapter", f"with.{field}")
        if params.quantization_bit and step.flavour == "cpu":
            yield Finding("bitsandbytes needs a card", "with.quantization_bit")
        yield from common.flash_findings(step, host)
        if given.facts.extra.get("stage") == "rm":
            yield Finding(f"{given.name} is a reward model: it answers nothing", "from")
        yield from common.template_findings(params.template, model)
        yield from common.more_findings(params, step.extra_args, common.KNOWN["infer"], OURS)

    def product(self, step: StepView) -> None:
        return None

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)


class Serve(_Infer):
    """A server for what LLaMA-Factory loads, by the training's template. It answers one request at a time: a look at
    a training's result, not a server for many; `vllm/serve` and `llama-cpp/serve` are those."""

    name: ClassVar[str] = "llama-factory/serve"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "service"
    summary: ClassVar[str] = "serves a model or an adapter over an OpenAI-compatible API, by LLaMA-Factory"
    params: ClassVar[type[Params]] = ServeParams

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        assert isinstance(params, ServeParams)
        key = API_KEY in step.secrets
        names = [word for name in (step.name, *params.served_model_name) for word in ("--name", name)]
        return Launch(
            argv=(
                *_command(step, "lf_serve.py"),
                "--host",
                BindRef(),
                "--port",
                PortRef(),
                *names,
                *(() if params.context is None else ("--context", str(params.context))),
                *(("--api-key-file", SecretRef(API_KEY)) if key else ()),
            ),
            env=common.environment(),
            files=(
                *_files(step, "lf_serve"),
                *common.drivers("lf_engine"),
                *(driver(SHARED / f"{name}.py") for name in _FRONT),
            ),
            secrets=(API_KEY,) if key else (),
            resources=_resources(step),
            probe=chat_probe(step.name, deadline_s=300.0),
            hints=common.HINTS,
            port_taken_exit=98,
            api="openai",
        )


class Chat(_Infer):
    """LLaMA-Factory's chat on the caller's terminal, or one question from a pipe."""

    name: ClassVar[str] = "llama-factory/chat"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "interactive"
    summary: ClassVar[str] = "talks to a model or an adapter on this terminal, or answers what is piped in"

    def launch(self, step: StepView, host: Host) -> Launch:
        return Launch(
            argv=_command(step, "lf_chat.py"),
            env=common.environment() | _QUIET,
            files=_files(step, "lf_chat"),
            resources=_resources(step),
            hints=common.HINTS,
        )


def _command(step: StepView, script: str) -> tuple[Word, ...]:
    given, model = step.inputs[0], _model(step)
    return (
        ImageRef("bin/python"),
        DriverRef(script),
        "--arguments",
        DriverRef("arguments.json"),
        *(() if model is None else ("--model", InputRef(model.name))),
        *(
            ("--adapter", InputRef(given.name, common.checkpoint(_params(step).checkpoint)))
            if given.type == "adapter/lora"
            else ()
        ),
    )


def _files(step: StepView, script: str) -> Any:
    params, given = _params(step), step.inputs[0]
    told = common.told(params) | {
        "template": params.template or common.template_of(given) or common.template_of(_model(step) or given),
        "infer_backend": "huggingface",
        **({"finetuning_type": "lora"} if given.type == "adapter/lora" else {}),
        **({"trust_remote_code": True} if step.trust_remote_code else {}),
        **common.extras(params, step.extra_args),
    }
    return (*common.drivers(script, *_DRIVERS), common.json_file("arguments.json", told))


def _resources(step: StepView) -> Resources:
    model = _model(step)
    size = model.facts.bytes if model is not None else None
    if size is None:
        return Resources()
    need = (
        size * (2 if step.flavour == "cpu" and model is not None and model.facts.bits == 16 else 1)
        + common.GIB
    )
    if step.flavour == "cpu":
        return Resources(memory=need + common.GIB, note="weights in 32 bit, torch and LLaMA-Factory")
    return Resources(memory=2 * common.GIB, gpu_memory=need)


def _model(step: StepView) -> Given | None:
    """The weights: the input itself, or the base of an adapter."""
    given = step.inputs[0]
    if given.type != "adapter/lora":
        return given
    return next(iter(step.given.get("base", ())), None) or common.base_of(given)


def _params(step: StepView) -> InferParams:
    assert isinstance(step.params, InferParams)
    return step.params
