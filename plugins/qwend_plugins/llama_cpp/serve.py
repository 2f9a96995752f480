"""`llama-cpp/serve`: llama.cpp's HTTP server, which speaks OpenAI's API.

Two images can serve: a ready wheel (`llama-cpp-server`, nothing is compiled) for what most need, and the compiled
`llama-server` for the rest. The parameters decide; a plan shows which image it will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from qwend.plugin import (
    BindRef,
    DriverRef,
    Finding,
    HttpProbe,
    Image,
    ImageRef,
    Launch,
    Params,
    PortRef,
    Probe,
    SecretRef,
    StepView,
    Word,
    driver,
    flag,
    reference,
)
from qwend.plugin import Host as Machine
from qwend_plugins.llama_cpp import common, serve_memory
from qwend_plugins.llama_cpp.serve_hints import HINTS

API_KEY = "api_key"
DEFAULT_CONTEXT = 8192

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]

_READY = (
    "batch_size", "ubatch_size", "threads_http", "flash_attn", "cache_type_k", "cache_type_v", "n_predict",
    "chat_template", "metrics",
)  # fmt: skip
"""Parameters that both servers know, besides those that are always given."""

_COMPILED = (
    "rope_scaling", "rope_scale", "rope_freq_base", "yarn_orig_ctx", "embeddings", "pooling", "reranking",
    "reasoning_format", "reasoning_budget", "draft_max", "seed",
)  # fmt: skip
"""Parameters that only the compiled server takes."""


class ServeParams(Params):
    """Parameters of llama-server, by its own names (`context` is `--ctx-size`)."""

    context: int | None = flag(
        "--ctx-size", None,
        description=f"tokens of context for all slots together; left out: {DEFAULT_CONTEXT}, or what the model was "
        "trained for if that is less", ge=64, le=2**24,
    )  # fmt: skip
    parallel: int = flag(
        "--parallel", 1, description="requests answered at once; they share the context", ge=1, le=256
    )
    threads: int | None = flag(
        "--threads", None, description="CPU threads; left out: what the lease allows", fingerprint=False, ge=1
    )
    threads_http: int | None = flag(
        "--threads-http", None, description="threads that speak HTTP", fingerprint=False, ge=1
    )
    batch_size: int | None = flag("--batch-size", None, description="tokens of a prompt taken at once", ge=1)
    ubatch_size: int | None = flag("--ubatch-size", None, description="tokens computed at once", ge=1)
    n_gpu_layers: int | None = flag(
        "--n-gpu-layers", None, description="layers on the accelerator; left out: as many as fit", ge=0
    )
    flash_attn: Literal["auto", "on", "off"] = flag("--flash-attn", "auto", description="flash attention")
    cache_type_k: CacheType | None = flag(
        "--cache-type-k", None, description="number format of the cached keys"
    )
    cache_type_v: CacheType | None = flag(
        "--cache-type-v",
        None,
        description="number format of the cached values; a quantised one needs flash attention",
    )
    n_predict: int | None = flag("--n-predict", None, description="most tokens of an answer", ge=1)
    chat_template: str | None = flag(
        "--chat-template", None, description="a Jinja template, or the name of a built-in one such as chatml",
        min_length=1, max_length=65536,
    )  # fmt: skip
    jinja: bool = flag("--jinja", True, description="use the model's own template, tools included")
    lora: tuple[str, ...] = reference(
        "adapter/gguf", default=(), description="adapters that are applied to the model"
    )
    served_model_name: tuple[str, ...] = flag(
        "--alias", (), description="more names under which the model answers, besides the step's"
    )
    metrics: bool = flag("--metrics", False, description="answer /metrics in Prometheus' format")
    slots: bool = flag("--slots", False, description="answer /slots; it shows what users asked")
    warmup: bool = flag("--warmup", True, description="run once before the first request", fingerprint=False)

    rope_scaling: Literal["none", "linear", "yarn"] | None = flag(
        "--rope-scaling", None, description="how positions beyond the trained length are scaled (Qwen: yarn)"
    )
    rope_scale: float | None = flag("--rope-scale", None, description="by how much the context grows", gt=0)
    rope_freq_base: float | None = flag("--rope-freq-base", None, description="base of the rotation", gt=0)
    yarn_orig_ctx: int | None = flag("--yarn-orig-ctx", None, description="trained length, for YaRN", ge=1)
    embeddings: bool = flag("--embeddings", False, description="serve embeddings instead of chat")
    pooling: Literal["none", "mean", "cls", "last", "rank"] | None = flag(
        "--pooling", None, description="how token embeddings become one (Qwen3-Embedding: last)"
    )
    reranking: bool = flag("--reranking", False, description="serve reranking instead of chat")
    draft: str | None = reference(
        "model/gguf", description="a small model of the same vocabulary that guesses ahead"
    )
    draft_max: int | None = flag("--spec-draft-n-max", None, description="most tokens guessed ahead", ge=1)
    reasoning_format: Literal["auto", "none", "deepseek", "deepseek-legacy"] | None = flag(
        "--reasoning-format", None, description="where the thinking of a model is put in an answer"
    )
    reasoning_budget: int | None = flag(
        "--reasoning-budget", None, description="most tokens of thinking; 0: none", ge=-1
    )
    seed: int | None = flag("--seed", None, description="seed of sampling where a request names none", ge=0)


class Serve:
    """Serves a GGUF."""

    name: ClassVar[str] = "llama-cpp/serve"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "service"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "serves a GGUF over an OpenAI-compatible API (llama-server)"
    params: ClassVar[type[Params]] = ServeParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.COMPUTING

    def check(self, step: StepView, host: Machine) -> Iterable[Finding]:
        params, facts = _params(step), step.inputs[0].facts
        yield from _context_findings(step)
        if facts.extra.get("scaled") and (facts.dtype or "").upper() in ("F16", "BF16", "F32"):
            yield Finding(
                f"{step.inputs[0].name} is scaled for quantising and not quantised: in 16 bits that gains nothing",
                "from",
                "put llama-cpp/quantize between, or serve the unscaled model",
                level="warning",
            )
        yield from common.no_layers(step, params.n_gpu_layers)
        if params.cache_type_v not in (None, "f32", "f16", "bf16") and params.flash_attn == "off":
            yield Finding("a quantised cache of values needs flash attention", "with.cache_type_v")
        if params.ubatch_size and params.ubatch_size > (params.batch_size or 2048):
            yield Finding(f"is more than batch_size ({params.batch_size or 2048})", "with.ubatch_size")
        if params.embeddings and params.reranking:
            yield Finding("a server embeds or ranks, not both", "with.reranking")
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

    def product(self, step: StepView) -> None:
        return None

    def image(self, step: StepView, host: Machine) -> Image:
        return common.image(common.TOOLS if needs_compiled(step) else common.SERVER, step)

    def launch(self, step: StepView, host: Machine) -> Launch:
        params = _params(step)
        compiled = needs_compiled(step)
        estimate = serve_memory.need(step, context(step))
        return Launch(
            argv=(*(_compiled_head() if compiled else _ready_head()), *_common(step), *_rest(step, compiled)),
            files=() if compiled else (driver(common.DRIVERS / "serve.py"),),
            secrets=(API_KEY,) if API_KEY in step.secrets else (),
            resources=common.resources(
                step,
                None if estimate is None else estimate.total,
                params.n_gpu_layers,
                note="" if estimate is None else estimate.describe(),
            ),
            probe=_probe(step),
            hints=HINTS,
            port_taken_exit=None if compiled else 98,
            api=None if params.reranking else "openai",
        )


def context(step: StepView) -> int:
    """Tokens of context of all slots together."""
    said = _params(step).context
    return said or min(DEFAULT_CONTEXT, step.inputs[0].facts.context or DEFAULT_CONTEXT)


def needs_compiled(step: StepView) -> bool:
    """Whether the step wants what the ready wheel does not offer; there is none with CUDA."""
    if common.on_cards(step):
        return True
    params = _params(step)
    unusual = any(getattr(params, field) != type(params).model_fields[field].default for field in _COMPILED)
    return unusual or params.draft is not None or len(params.served_model_name) > 0 or bool(step.extra_args)


def _context_findings(step: StepView) -> Iterator[Finding]:
    params, facts = _params(step), step.inputs[0].facts
    trained, total = facts.context, context(step)
    each = total // params.parallel
    scaled = params.rope_scaling in ("linear", "yarn")
    reach = None if trained is None else int(trained * (params.rope_scale or 1)) if scaled else trained
    share = f" for each of {params.parallel} slots" if params.parallel > 1 else ""
    if reach is not None and trained is not None and each > reach:
        factor = -(-each // trained)
        yield Finding(
            f"a context of {each}{share} is beyond what the model was trained for ({trained})"
            + (f", scaled by {params.rope_scale:g}" if scaled and params.rope_scale else ""),
            "with.context",
            f"YaRN stretches it: rope_scaling: yarn, rope_scale: {factor}, yarn_orig_ctx: {trained}",
        )
    if each < 256:
        yield Finding(
            f"{each} tokens of context{share} hold hardly a question", "with.context", level="warning"
        )
    if params.rope_scaling == "yarn" and params.rope_scale is None:
        yield Finding("YaRN needs to know by how much", "with.rope_scaling", "say rope_scale: 4")
    if scaled and reach is not None and trained is not None and each <= trained:
        yield Finding(
            f"a context of {each} needs no scaling, and scaling makes short answers a little worse",
            "with.rope_scaling",
            level="warning",
        )


def _ready_head() -> tuple[Word, ...]:
    return (ImageRef("bin/python"), DriverRef("serve.py"))


def _compiled_head() -> tuple[Word, ...]:
    # offline: no model is fetched by name; no origin of the web may call; no page is served
    return (ImageRef("bin/llama-server"), "--offline", "--no-ui", "--cors-origins", "")


def _common(step: StepView) -> Iterator[Word]:
    """What both servers are always told, defaults included: an upgrade of llama.cpp changes none of it."""
    params = _params(step)
    yield from ("--model", common.gguf(step.inputs[0]), "--host", BindRef(), "--port", PortRef())
    yield from ("--alias", ",".join((step.name, *params.served_model_name)))
    yield from ("--ctx-size", str(context(step)), "--parallel", str(params.parallel))
    yield from ("--threads", common.threads(params.threads))
    yield from common.offload(step, params.n_gpu_layers)
    yield "--jinja" if params.jinja else "--no-jinja"
    yield "--slots" if params.slots else "--no-slots"
    yield "--warmup" if params.warmup else "--no-warmup"
    yield from common.flags(params, *_READY)
    if API_KEY in step.secrets:
        yield from ("--api-key-file", SecretRef(API_KEY))
    for adapter in step.given.get("lora", ()):
        yield from ("--lora", common.gguf(adapter))


def _rest(step: StepView, compiled: bool) -> Iterator[Word]:
    if not compiled:
        if step.flavour == "apple" and _params(step).n_gpu_layers != 0:
            yield "--require-gpu"
        return
    yield from common.flags(_params(step), *_COMPILED)
    for model in step.given.get("draft", ()):
        yield from ("--spec-draft-model", common.gguf(model))
    yield from step.extra_args


def _probe(step: StepView) -> Probe:
    """Healthy means that it answers; at work means that it made one real token (or vector, or rank)."""
    params = _params(step)
    path, body, field = _work(params, step.name)
    return Probe(
        ready=HttpProbe("/health"),
        work=HttpProbe(path, body=body, field=field, timeout_s=120.0),
        deadline_s=60.0,
    )


def _work(params: ServeParams, name: str) -> tuple[str, dict[str, Any], str]:
    if params.embeddings:
        return "/v1/embeddings", {"model": name, "input": "Hi"}, "data.0.embedding.0"
    if params.reranking:
        return "/v1/rerank", {"model": name, "query": "Hi", "documents": ["Hi"]}, "results.0.relevance_score"
    chat = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "temperature": 0}
    return "/v1/chat/completions", chat, "usage.completion_tokens"


def _params(step: StepView) -> ServeParams:
    assert isinstance(step.params, ServeParams)
    return step.params
