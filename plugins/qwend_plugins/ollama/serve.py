"""`ollama/serve`: a model of ours on an Ollama, created if it is not there, and served: on this machine's own, or in a
container that holds one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

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
    Params,
    PortRef,
    ScratchRef,
    SecretRef,
    StepView,
    Word,
    load_image,
)
from qwend_plugins.ollama import common
from qwend_plugins.serving import API_KEY, answering, chat_probe

_FILES = ("ollama_serve.py", "ollama_server.py", "ollama_wanted.py", "ollama_create.py", "ollama_gateway.py")
_LIBRARIES = 400 * 1024**2
"""Resident sets of the driver and of a server without a model."""


class ServeParams(common.ModelParams):
    """What the model is told, and which server it is on."""

    url: str | None = Field(
        None, description="a running server; left out: the machine's at port 11434, else the installed program; in a "
        "container its own",
        pattern=r"^https?://[A-Za-z0-9._:\[\]-]+$",
    )  # fmt: skip
    managed: bool | None = Field(
        None, description="true: always run a server of its own; false: never; left out: if none runs"
    )
    name: str | None = Field(
        None, description="its name on the server; left out: qwend/RECIPE-STEP with a tag of its content"
    )
    served_model_name: tuple[str, ...] = Field(
        (), description="more names under which the model answers, besides the step's"
    )
    keep_alive: str | None = Field(
        None, description="how long the model stays in memory after a request: 10m, 24h, -1 for ever; left out: as "
        "the server does (5m where nobody said otherwise)",
        pattern=r"^(-1|\d+(ms|s|m|h)?)$",
    )  # fmt: skip
    quantize: Literal["q8_0", "q4_K_S", "q4_K_M"] | None = Field(
        None, description="let Ollama quantise a model in 16 bits; llama-cpp/quantize knows more types"
    )


class Serve:
    """Serves a model with Ollama."""

    name: ClassVar[str] = "ollama/serve"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "service"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "creates a model on an Ollama (this machine's, or in a container) and serves it"
    params: ClassVar[type[Params]] = ServeParams
    accepts: ClassVar[tuple[str, ...]] = ("model/gguf", "model/ollama", "model/safetensors")
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = (*common.FLAVOURS, "cuda", "cuda12")
    first: ClassVar[dict[str, tuple[str, ...]]] = common.FIRST

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, model = _params(step), step.inputs[0]
        yield from common.findings(params, model)
        if step.runtime != "native":
            yield from _container_findings(step, params)
        problem = None if params.name is None else common.name_problem(params.name)
        if problem is not None:
            yield Finding(problem, "with.name")
        if params.managed and params.url is not None:
            yield Finding("a server of its own has a place of its own", "with.url")
        if params.quantize and (model.facts.bits or 16.0) < 15.0:
            yield Finding(
                f"the model is quantised already ({model.facts.bits:g} bits per weight)", "with.quantize"
            )
        if step.extra_args:
            yield Finding("there are no further arguments: all of them are parameters", "extra_args")

    def product(self, step: StepView) -> None:
        return None

    def image(self, step: StepView, host: Host) -> Image:
        return load_image("qwend_images:ollama", "server") if _holds_one(step) else common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, model = _params(step), step.inputs[0]
        context = params.parameters.get("num_ctx")
        tokens = (
            context
            if type(context) is int
            else min(common.DEFAULT_CONTEXT, model.facts.context or common.DEFAULT_CONTEXT)
        )
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("ollama_serve.py"), *_words(step, params)),
            files=(*common.files(*_FILES, *common.COMPOSING), common.wanted(params, model.facts, model.type)),
            secrets=(API_KEY,) if API_KEY in step.secrets else (),
            network=True,
            resumable=_holds_one(step),
            resources=answering(step, tokens, library=_LIBRARIES),
            probe=chat_probe(step.name, deadline_s=300.0),
            hints=common.HINTS,
            port_taken_exit=98,
            api="openai",
        )


def _words(step: StepView, params: ServeParams) -> Iterator[Word]:
    yield from ("--model", InputRef(step.inputs[0].name), "--wanted", DriverRef(common.WANTED))
    if step.inputs[0].type == "model/ollama":
        yield "--modelfile"
    for name in (step.name, *params.served_model_name):
        yield from ("--name", name)
    yield from ("--real", params.name or own_name(step), "--host", BindRef(), "--port", PortRef())
    if params.keep_alive is not None:
        yield from ("--keep-alive", params.keep_alive)
    if params.url is not None:
        yield from ("--url", params.url)
    if _holds_one(step):
        yield from ("--models", ScratchRef("models"))
    elif params.managed is not None:
        yield "--managed" if params.managed else "--no-managed"
    if params.quantize is not None:
        yield from ("--quantize", params.quantize)
    if API_KEY in step.secrets:
        yield from ("--key-file", SecretRef(API_KEY))


def _holds_one(step: StepView) -> bool:
    """Whether the step's container holds the server, since it reaches none of this machine."""
    return step.runtime != "native" and _params(step).url is None


def _container_findings(step: StepView, params: ServeParams) -> Iterator[Finding]:
    where = f"a step in {step.runtime}"
    if params.url is not None and re.match(r"https?://(127\.|localhost\b|\[::1\])", params.url):
        yield Finding(
            f"{params.url} is another place for {where}",
            "with.url",
            "say runtime: native, or an address that it reaches",
        )
    if params.url is None and params.managed is False:
        yield Finding(
            f"{where} has no other Ollama than its own", "with.managed", "say runtime: native, or a url"
        )
    pin = step.inputs[0].pin
    if params.url is None and pin is not None and pin.ref.startswith("ollama:"):
        yield Finding(
            f"{where} pulls {pin.ref} into its own Ollama, whatever this machine's holds",
            "runtime",
            "runtime: native uses it where it lies",
            level="warning",
        )
    if pin is not None and pin.ref.startswith("file:") and step.inputs[0].type == "model/ollama":
        yield Finding(
            f"{where} sees the Modelfile alone: FROM may name a model, and no file beside it",
            "runtime",
            "runtime: native sees what lies beside it",
            level="warning",
        )


def own_name(step: StepView) -> str:
    """A name that no model of the user's has; steps of a matrix have brackets in theirs."""
    plain = re.sub(r"[^a-z0-9._]+", "-", f"{step.recipe}-{step.name}".lower()).strip("-._")
    return f"qwend/{plain[:79].rstrip('-._') or 'model'}"


def _params(step: StepView) -> ServeParams:
    assert isinstance(step.params, ServeParams)
    return step.params
