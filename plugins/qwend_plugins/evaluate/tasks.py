"""`evaluate/tasks`: benchmark tasks by lm-evaluation-harness, its own or those of a local file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    LogHint,
    OutputRef,
    Params,
    Product,
    Resources,
    ScratchRef,
    StepView,
    ThreadsRef,
    Word,
    driver,
    estimate,
    flag,
    load_image,
    reference,
)
from qwend_plugins.evaluate import common
from qwend_plugins.evaluate.params import MachineParams

LOCAL = "local"
_LIBRARIES = common.GIB + common.GIB // 2
"""Resident set with torch, transformers, datasets and scikit-learn imported (measured on Linux: 1.3 GiB)."""


DATA = {
    "mmlu": "cais/mmlu",
    "ceval-valid": "ceval/ceval-exam",
    "cmmlu": "haonan-li/cmmlu",
    "gsm8k": "openai/gsm8k",
}
"""Where the harness's best known tasks have their questions, on Hugging Face (a test reads it out of its package)."""
_LOADED = ("model/safetensors", "model/compressed-tensors", "model/gguf")
_SERVED = ("model/awq", "model/gptq", "model/mlx")
"""What the harness cannot load by itself, but may ask where it is served."""


class TasksParams(MachineParams):
    """Parameters of evaluate/tasks, by lm_eval's own names."""

    tasks: tuple[str, ...] = flag(
        "--tasks",
        (LOCAL,),
        description="names of tasks (mmlu, ceval-valid, gsm8k …), which bring their data from Hugging Face; local: the "
        "questions in data",
        min_length=1,
        max_length=64,
    )
    data: str | None = reference(
        "dataset/prompts", "dataset/sft", "dataset/text",
        description="questions with answers, a folder with task files (YAML) of the harness, or one with the data sets "
        "of its own tasks as the hub keeps them (openai/gsm8k/…)",
    )  # fmt: skip
    limit: int | None = flag("--limit", None, description="so many questions of each task", ge=1)
    num_fewshot: int | None = flag(
        "--num_fewshot",
        None,
        description="worked examples before each question; left out: the task's own",
        ge=0,
        le=64,
    )
    batch_size: int = flag(
        "--batch_size", 1, description="questions at once", ge=1, le=4096, fingerprint=False
    )
    apply_chat_template: bool = flag(
        "--apply_chat_template", False, description="put questions by the model's chat template"
    )
    max_gen_toks: int = flag(
        "max_gen_toks", 256, description="tokens of a written answer at most", ge=1, le=32_768
    )
    base_url: str | None = Field(
        None,
        description="ask a server (the URL of its /v1/completions) instead of loading the model: any format that is "
        "served with log-probabilities of the prompt (vLLM does)",
        pattern=r"^https?://[^\s]+$",
    )

    @field_validator("tasks")
    @classmethod
    def _plain(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not value or not all(char.isalnum() or char in "_-." for char in value):
                raise ValueError("should be names of letters, digits, _, - and .")
        return values


class Tasks:
    """Runs tasks over one model."""

    name: ClassVar[str] = "evaluate/tasks"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "Benchmark tasks by lm-evaluation-harness: MMLU, C-Eval, GSM8K, or questions of your own"
    )
    params: ClassVar[type[Params]] = TasksParams
    accepts: ClassVar[tuple[str, ...]] = (*_LOADED, *_SERVED)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "apple")

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        params, model = _params(step), step.inputs[0]
        if LOCAL in params.tasks and params.data is None:
            yield Finding(
                "is required for the task local", "with.data", "name a data set with questions and answers"
            )
        if step.network == "none" and self._reaches_out(step):
            yield Finding(
                "tasks that bring their data need the network", "network", "leave network: none out"
            )
        if model.type in _SERVED and params.base_url is None:
            yield Finding(
                f"{model.type} is not loaded here",
                "with.base_url",
                "serve it (vllm/serve) and give the URL of its /v1/completions",
            )
        if self._reaches_out(step):
            told = [f"{task} from {DATA[task]}" for task in params.tasks if task in DATA]
            rest = [task for task in params.tasks if task not in DATA and task != LOCAL]
            told += [f"{', '.join(rest)} from where its task file says"] if rest else []
            yield Finding(
                f"fetches questions while it runs: {'; '.join(told)}",
                "with.tasks",
                "data: a folder that holds them already",
                level="warning",
            )
        if model.type == "model/gguf" and params.base_url is None:
            yield Finding(
                "a GGUF is turned back into 16 bits for this: the figures are of its weights, not of llama.cpp",
                "from",
                level="warning",
            )

    def product(self, step: StepView) -> Product:
        return Product("report")

    def image(self, step: StepView, host: Host) -> Image:
        return load_image("qwend_images:lm-eval", step.flavour)

    def launch(self, step: StepView, host: Host) -> Launch:
        params, model = _params(step), step.inputs[0]
        argv: list[Word] = [ImageRef("bin/python"), DriverRef("run_tasks.py"), "--name", model.name]
        argv += [
            "--model",
            InputRef(model.name),
            "--device",
            common.DEVICES[step.flavour],
            "--dtype",
            params.dtype,
        ]
        for task in params.tasks:
            argv += ["--task", task]
        for data in step.given.get("data", ()):
            argv += ["--data", InputRef(data.name)]
        for option, value in (("--limit", params.limit), ("--num-fewshot", params.num_fewshot)):
            if value is not None:
                argv += [option, str(value)]
        argv += ["--batch-size", str(params.batch_size), "--max-gen-toks", str(params.max_gen_toks)]
        if params.apply_chat_template:
            argv.append("--apply-chat-template")
        if params.base_url is not None:
            argv += ["--base-url", params.base_url]
        if step.trust_remote_code:
            argv.append("--trust-remote-code")
        argv += ["--threads", ThreadsRef() if params.threads is None else str(params.threads)]
        argv += ["--out", OutputRef()]
        offline: dict[str, Word] = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        return Launch(
            argv=tuple(argv),
            env={
                **({} if self._reaches_out(step) else offline),
                "HF_HOME": ScratchRef("hub"),
                "NLTK_DATA": ScratchRef("nltk"),
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONUNBUFFERED": "1",
            },
            files=tuple(
                driver(common.DRIVERS / name) for name in ("run_tasks.py", "ev_common.py", "ev_table.py")
            ),
            network=self._reaches_out(step) or params.base_url is not None,
            resources=self._resources(step, params),
            hints=(
                LogHint(
                    r"OfflineModeIsEnabled|Couldn't reach '(?P<data>[^']+)'|ConnectionError",
                    "the task's data {data} cannot be reached",
                    "a mirror: HF_ENDPOINT; or data: a folder with data sets as the hub keeps them; or questions of "
                    "your own: tasks: [local]",
                ),
            ),
        )

    def _reaches_out(self, step: StepView) -> bool:
        """A task by name fetches its data, unless they are given, or task files that say what it is."""
        params = _params(step)
        given = params.data is not None and LOCAL not in params.tasks
        return any(task != LOCAL for task in params.tasks) and not given

    def _resources(self, step: StepView, params: TasksParams) -> Resources:
        facts = step.inputs[0].facts
        bits = (
            32.0 if params.dtype == "float32" or (params.dtype == "auto" and step.flavour == "cpu") else 16.0
        )
        need = None if params.base_url else estimate(facts, 2048, sequences=params.batch_size, bits=bits)
        total = None if need is None else need.total
        if step.flavour == "cuda":
            each = None if total is None else total // max(1, step.gpus)
            return Resources(_LIBRARIES + 2 * common.GIB, each, gpus=step.gpus, heavy=True)
        return Resources(None if total is None else total + _LIBRARIES, heavy=True)


def _params(step: StepView) -> TasksParams:
    assert isinstance(step.params, TasksParams)
    return step.params
