"""`vllm/serve`: vLLM's OpenAI-compatible server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from qwend.plugin import (
    BindRef,
    DriverRef,
    Finding,
    Host,
    HttpProbe,
    Image,
    ImageRef,
    InputRef,
    Launch,
    Params,
    PortRef,
    Probe,
    SecretRef,
    StepView,
    Word,
)
from qwend_plugins.serving import API_KEY, chat_probe, flags
from qwend_plugins.vllm import checks, common
from qwend_plugins.vllm.params import ServeParams

_FILES = ("vllm_serve.py", "vllm_guard.py", "vllm_start.py")


class Serve:
    """Serves a checkpoint to many at once."""

    name: ClassVar[str] = "vllm/serve"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "service"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "serves a checkpoint over an OpenAI-compatible API, to many at once (vLLM)"
    params: ClassVar[type[Params]] = ServeParams
    accepts: ClassVar[tuple[str, ...]] = common.MODELS
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = common.FLAVOURS

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params = _params(step)
        yield from checks.engine_findings(step, host, params)
        yield from checks.serve_findings(step, host, params)

    def product(self, step: StepView) -> None:
        return None

    def image(self, step: StepView, host: Host) -> Image:
        return common.image(step)

    def launch(self, step: StepView, host: Host) -> Launch:
        params = _params(step)
        follows = params.node_rank > 0
        return Launch(
            argv=(ImageRef("bin/python"), DriverRef("vllm_serve.py"), *_words(step, params)),
            env=common.environment(step, params),
            files=common.files(params, *_FILES),
            secrets=(API_KEY,) if API_KEY in step.secrets else (),
            resources=common.resources(step, params, step.given.get("lora", ())),
            probe=Probe(ready=HttpProbe("/health"), deadline_s=900.0)
            if follows
            else chat_probe(step.name, deadline_s=900.0),
            hints=common.HINTS,
            network=params.nnodes > 1,
            shm=common.shared_memory(step),
            port_taken_exit=98,
            api=None if follows else "openai",
        )


def _words(step: StepView, params: ServeParams) -> Iterator[Word]:
    """The driver's own words, then `--` and vLLM's."""
    if API_KEY in step.secrets:
        yield from ("--key-file", SecretRef(API_KEY))
    if params.nnodes > 1 and params.distributed_executor_backend == "ray":
        yield from (
            "--ray",
            "head" if params.node_rank == 0 else f"{params.master_addr}:{params.master_port}",
        )
        yield from ("--ray-port", str(params.master_port)) if params.node_rank == 0 else ()
    yield from ("--host", BindRef(), "--port", PortRef(), "--")
    yield InputRef(step.inputs[0].name)
    yield from ("--served-model-name", step.name, *params.served_model_name)
    yield from common.engine_words(step, params)
    yield from common.template_words(params)
    if params.chat_template_kwargs:
        said = json.dumps(params.chat_template_kwargs, sort_keys=True, ensure_ascii=False)
        yield from ("--default-chat-template-kwargs", said)
    yield from flags(params, "enable_auto_tool_choice", "tool_call_parser", "reasoning_parser")
    yield from common.lora_words(step.given.get("lora", ()))
    if params.nnodes > 1 and params.distributed_executor_backend != "ray":
        yield from ("--nnodes", str(params.nnodes), "--node-rank", str(params.node_rank))
        yield from ("--master-addr", params.master_addr or "", "--master-port", str(params.master_port))
        yield from ("--headless",) if params.node_rank > 0 else ()
    yield from step.extra_args


def _params(step: StepView) -> ServeParams:
    assert isinstance(step.params, ServeParams)
    return step.params
