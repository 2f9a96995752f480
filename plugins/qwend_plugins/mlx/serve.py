"""`mlx/serve`: mlx-lm's server, which speaks OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from qwend.plugin import (
    BindRef,
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    LaunchFile,
    Params,
    PortRef,
    SecretRef,
    StepView,
    Word,
    flag,
    reference,
)
from qwend_plugins.mlx import common
from qwend_plugins.serving import API_KEY, answering, chat_probe, flags

TEMPLATE = "chat_template.jinja"

_PASSED = (
    "temp", "top_p", "top_k", "min_p", "max_tokens", "use_default_chat_template", "chat_template_args",
    "decode_concurrency", "prompt_concurrency", "prefill_step_size", "prompt_cache_size", "prompt_cache_bytes",
    "kv_bits", "kv_group_size", "quantized_kv_start", "num_draft_tokens",
)  # fmt: skip
"""Parameters that mlx_lm.server takes as they are."""
_FILES = (
    "mlx_serve.py",
    "mlx_http.py",
    "mlx_stops.py",
    "mlx_start.py",
    "openai_requests.py",
    "answer_text.py",
)


class ServeParams(Params):
    """Parameters of mlx_lm.server, by its own names."""

    temp: float | None = flag(
        "--temp",
        None,
        description="0 is greedy; left out: as the model's generation_config.json says",
        ge=0,
        le=2,
    )
    top_p: float | None = flag(
        "--top-p", None, description="sample among the likeliest that make up so much", gt=0, le=1
    )
    top_k: int | None = flag("--top-k", None, description="sample among so many", ge=0)
    min_p: float | None = flag(
        "--min-p", None, description="sample what is at least so likely as against the best", ge=0, le=1
    )
    max_tokens: int = flag(
        "--max-tokens", 2048, description="most tokens of an answer where a request names none", ge=1
    )
    context: int | None = Field(
        None,
        description="tokens of prompt and answer together; left out: what the model was trained for",
        ge=64,
        le=2**24,
    )
    chat_template: str | None = flag(
        "--chat-template", None, description="a Jinja template in place of the model's own", min_length=1,
        max_length=262_144,
    )  # fmt: skip
    use_default_chat_template: bool = flag(
        "--use-default-chat-template",
        False,
        description="the tokenizer's default where the model brings none",
    )
    chat_template_args: dict[str, Any] = flag(
        "--chat-template-args", {}, description="arguments for the template: {enable_thinking: false}"
    )
    served_model_name: tuple[str, ...] = flag(
        "--name", (), description="more names under which the model answers, besides the step's"
    )
    decode_concurrency: int = flag(
        "--decode-concurrency", 32, description="answers generated at once", ge=1, le=1024
    )
    prompt_concurrency: int = flag(
        "--prompt-concurrency", 8, description="prompts read at once", ge=1, le=1024
    )
    prefill_step_size: int = flag(
        "--prefill-step-size", 2048, description="tokens of a prompt taken at once", ge=1
    )
    prompt_cache_size: int = flag(
        "--prompt-cache-size", 10, description="conversations whose cache is kept", ge=1
    )
    prompt_cache_bytes: str | None = flag(
        "--prompt-cache-bytes",
        None,
        description="most memory for kept caches: 4GB, 500MB",
        pattern=r"^\d+(\.\d+)?[KMG]?B?$",
    )
    kv_bits: Literal[2, 3, 4, 6, 8] | None = flag(
        "--kv-bits",
        None,
        description="bits of cached keys and values; then one request is answered at a time",
    )
    kv_group_size: Literal[32, 64, 128] = flag(
        "--kv-group-size", 64, description="numbers of the cache that share a scale"
    )
    quantized_kv_start: int = flag(
        "--quantized-kv-start", 5000, description="from which token on the cache is quantised", ge=0
    )
    draft: str | None = reference(
        "model/mlx",
        "model/safetensors",
        description="a small model of the same vocabulary that guesses ahead",
    )
    num_draft_tokens: int = flag("--num-draft-tokens", 3, description="tokens guessed ahead", ge=1, le=64)


class Serve:
    """Serves a model with MLX."""

    name: ClassVar[str] = "mlx/serve"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "service"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "serves a model over an OpenAI-compatible API with MLX (mlx_lm.server)"
    params: ClassVar[type[Params]] = ServeParams
    accepts: ClassVar[tuple[str, ...]] = common.MODELS
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, facts = _params(step), step.inputs[0].facts
        yield from common.machine_findings(step, host)
        yield from common.model_findings(step)
        if params.context and facts.context and params.context > facts.context:
            yield Finding(
                f"a context of {params.context} is beyond what the model was trained for ({facts.context})",
                "with.context",
                "vllm/serve and llama-cpp/serve stretch it with YaRN",
            )
        if params.kv_bits is not None and params.draft is not None:
            yield Finding("a quantised cache and a draft model do not go together", "with.kv_bits")
        for one in step.given.get("draft", ()):
            if (
                None not in (one.facts.vocabulary, facts.vocabulary)
                and one.facts.vocabulary != facts.vocabulary
            ):
                yield Finding(
                    f"{one.name} has a vocabulary of {one.facts.vocabulary}, the model one of {facts.vocabulary}: "
                    "it cannot guess for it",
                    "with.draft",
                )
        if step.extra_args:
            yield Finding("there are no further arguments: all of them are parameters", "extra_args")

    def product(self, step: StepView) -> None:
        return None

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        trained = step.inputs[0].facts.context
        context = params.context or min(common.DEFAULT_CONTEXT, trained or common.DEFAULT_CONTEXT)
        beside = sum(one.facts.bytes or 0 for one in step.given.get("draft", ()))
        template = () if params.chat_template is None else (LaunchFile(TEMPLATE, params.chat_template),)
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("mlx_serve.py"), *_words(step, params)),
            env=common.environment(step),
            files=(*common.files(*_FILES), *template),
            secrets=(API_KEY,) if API_KEY in step.secrets else (),
            resources=answering(step, context, library=common.LIBRARIES, beside=beside),
            probe=chat_probe(step.name, deadline_s=180.0),
            hints=common.HINTS,
            port_taken_exit=98,
            api="openai",
        )


def _words(step: StepView, params: ServeParams) -> Iterator[Word]:
    """The driver's own words, then `--` and the server's."""
    for name in (step.name, *params.served_model_name):
        yield from ("--name", name)
    if API_KEY in step.secrets:
        yield from ("--key-file", SecretRef(API_KEY))
    if params.chat_template is not None:
        yield from ("--template-file", DriverRef(TEMPLATE))
    if params.context is not None:
        yield from ("--context", str(params.context))
    yield from ("--host", BindRef(), "--port", PortRef(), "--", "--model", InputRef(step.inputs[0].name))
    for one in step.given.get("draft", ()):
        yield from ("--draft-model", InputRef(one.name))
    yield from ("--max-tokens", str(params.max_tokens))
    yield from flags(params, *(name for name in _PASSED if name != "max_tokens"))
    if step.trust_remote_code:
        yield "--trust-remote-code"


def _params(step: StepView) -> ServeParams:
    assert isinstance(step.params, ServeParams)
    return step.params
