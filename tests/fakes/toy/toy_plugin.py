"""Real processes in milliseconds: a plugin whose engines are this machine's Python and a small driver.

It comes in by the same entry point as any plugin (its dist-info lies beside it; tests put this folder on PYTHONPATH).
With QWEND_TOY_IMAGE (a folder) they run in that image instead, in containers. `toy/make` writes its parameters and
`toy/job` does so from inputs; `toy/serve` is an HTTP server that misbehaves as its parameters say, `toy/serve-data` the
same with inputs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from qwend.plugin import (
    BindRef,
    DriverRef,
    Finding,
    Host,
    HostProgram,
    HttpProbe,
    Image,
    ImageRef,
    InputRef,
    Launch,
    OutputRef,
    Params,
    PortRef,
    Probe,
    Product,
    Resources,
    ScratchRef,
    SecretRef,
    StepView,
    Word,
    driver,
    flag,
    hookimpl,
    load_image,
)

_DRIVER = Path(__file__).parent / "toy_driver.py"


_PLACE = os.environ.get("QWEND_TOY_IMAGE")
_PYTHON = ImageRef("bin/python" if _PLACE else "")


def _image() -> Image:
    if _PLACE:
        return load_image(_PLACE, "cpu")
    return HostProgram(name="python", program="python3", install_hint="install Python 3")


class JobParams(Params):
    text: str = flag("--text", "", description="what to write")
    seconds: float = flag("--seconds", 0.0, description="how long to take")
    code: int = flag("--exit", 0, description="the exit code")
    metric: float | None = flag("--metric", None, description="a metric to report, named score")
    fill: int = flag("--fill", 0, description="bytes to write into the artifact")
    once: bool = flag("--once", False, description="fail at the first attempt only")
    heavy: bool = flag("", False, description="ask for the machine's heavy turn", fingerprint=False)
    resumable: bool = flag("--resume", False, description="go on where a killed attempt stopped")
    odd_name: bool = flag("--odd-name", False, description="also write a file whose name is no text")
    eat: int = flag("--eat", 0, description="bytes of memory to take")
    last_words: str = flag("--last-words", "", description="printed before a failing end")


class Make:
    """Writes a file and ends."""

    name: ClassVar[str] = "toy/make"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Write a file"
    params: ClassVar[type[Params]] = JobParams
    accepts: ClassVar[tuple[str, ...]] = ()
    many: ClassVar[bool] = True
    flavours: ClassVar[tuple[str, ...]] = ("cpu",)

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        return ()

    def product(self, step: StepView) -> Product:
        return Product("dataset/text")

    def image(self, step: StepView, host: Host) -> Image:
        return _image()

    def launch(self, step: StepView, host: Host) -> Launch:
        params: JobParams = step.params
        words: list[Word] = [_PYTHON, DriverRef(_DRIVER.name), "job", "--out", OutputRef()]
        words += ["--scratch", ScratchRef()]
        words += _flags(params, skip={"heavy"})
        for given in step.inputs:
            words += ["--input", InputRef(given.name)]
        return Launch(
            argv=tuple(words),
            files=(driver(_DRIVER),),
            resumable=params.resumable,
            resources=Resources(heavy=params.heavy),
        )


class Job(Make):
    """The same, from inputs."""

    name: ClassVar[str] = "toy/job"
    accepts: ClassVar[tuple[str, ...]] = ("dataset/text",)


class ServeParams(Params):
    ignore_sigterm: bool = flag("--ignore-sigterm", False, description="take no notice of SIGTERM")
    fork: bool = flag("--fork", False, description="leave a grandchild that holds stdout")
    setsid: bool = flag("--setsid", False, description="leave a daemonised grandchild")
    orphan: bool = flag("--orphan", False, description="end at once and leave the grandchild behind")
    polite: float = flag("--polite", 0.0, description="seconds that an orderly end takes")
    slow: float = flag("--slow", 0.0, description="seconds until it listens")
    load: float = flag("--load", 0.0, description="seconds of 503 before it is ready")
    hang_work: bool = flag("--hang-work", False, description="healthy, but never answers a real request")
    hang_after: float | None = flag("--hang-after", None, description="seconds until real requests hang")
    die_after: float | None = flag("--die-after", None, description="seconds until it ends")
    die_code: int = flag("--die-code", 1, description="the exit code of that end")
    last: str = flag("--last", "", description="printed before that end")
    echo_secret: bool = flag("", False, description="say how long the secret api_key is")
    leak_secret: bool = flag("--leak-secret", False, description="end at once, and tell the secret")
    needs_gpu_memory: int | None = flag("", None, description="bytes of a card", fingerprint=False)
    needs_memory: int = flag("", 16 << 20, description="bytes that it is expected to need", fingerprint=False)
    eat_after: float | None = flag("--eat-after", None, description="seconds until it takes 256 MiB")
    fail: str = flag("--fail", "", description="end at once, with these last words")
    flood: int = flag("--flood", 0, description="bytes of log to write")
    patience: float = flag(
        "", 2.0, description="seconds until a real request counts as lost", fingerprint=False
    )
    text: str = flag("--text", "", description="counts in the fingerprint, changes nothing else")


class Serve:
    """An HTTP server with the manners that it is told to have."""

    name: ClassVar[str] = "toy/serve"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "service"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Serve, badly if asked"
    params: ClassVar[type[Params]] = ServeParams
    accepts: ClassVar[tuple[str, ...]] = ()
    many: ClassVar[bool] = True
    flavours: ClassVar[tuple[str, ...]] = ("cpu",)

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        return ()

    def product(self, step: StepView) -> None:
        return None

    def image(self, step: StepView, host: Host) -> Image:
        return _image()

    def launch(self, step: StepView, host: Host) -> Launch:
        words: list[Word] = [
            _PYTHON,
            DriverRef(_DRIVER.name),
            "serve",
            "--host",
            BindRef(),
            "--port",
            PortRef(),
        ]
        params: ServeParams = step.params
        words += _flags(params, skip={"patience", "echo_secret", "needs_memory", "needs_gpu_memory"})
        if params.echo_secret or params.leak_secret:
            words += ["--secret", SecretRef("api_key")]
        for given in step.inputs:
            words += ["--input", InputRef(given.name)]
        return Launch(
            argv=tuple(words),
            files=(driver(_DRIVER),),
            probe=Probe(
                ready=HttpProbe("/health", timeout_s=2.0),
                work=HttpProbe("/work", body={"n": 1}, field="ok", timeout_s=params.patience),
                interval_s=0.5,
                work_interval_s=1.0,
                deadline_s=20.0,
            ),
            resources=Resources(memory=params.needs_memory, gpu_memory=params.needs_gpu_memory),
            port_taken_exit=98,
        )


class TalkParams(Params):
    secret: bool = flag("", False, description="say how long the secret api_key is")
    heavy: bool = flag("", False, description="ask for the machine's heavy turn", fingerprint=False)


class Talk(Make):
    """Repeats what is typed."""

    name: ClassVar[str] = "toy/talk"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "interactive"
    summary: ClassVar[str] = "Repeat what is typed"
    params: ClassVar[type[Params]] = TalkParams

    def product(self, step: StepView) -> None:  # type: ignore[override]
        return None

    def launch(self, step: StepView, host: Host) -> Launch:
        params: TalkParams = step.params
        words: list[Word] = [ImageRef(""), DriverRef(_DRIVER.name), "talk"]
        words += ["--secret", SecretRef("api_key")] if params.secret else []
        return Launch(argv=tuple(words), files=(driver(_DRIVER),), resources=Resources(heavy=params.heavy))


class ServeData(Serve):
    """The same, with inputs."""

    name: ClassVar[str] = "toy/serve-data"
    accepts: ClassVar[tuple[str, ...]] = ("dataset/text",)


class ServeGpu(Serve):
    """The same, on a card where there is one."""

    name: ClassVar[str] = "toy/serve-gpu"
    flavours: ClassVar[tuple[str, ...]] = ("cuda", "cpu")


class MakeGpu(Make):
    """A job on a card."""

    name: ClassVar[str] = "toy/make-gpu"
    flavours: ClassVar[tuple[str, ...]] = ("cuda", "cpu")


def _flags(params: Params, skip: Iterable[str] = ()) -> list[Word]:
    """Each parameter that is not its default, as the driver's own flag."""
    words: list[Word] = []
    for name, field in type(params).model_fields.items():
        value = getattr(params, name)
        if name in skip or value == field.default:
            continue
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        words.append(str(extra["x-qwend-flag"]))
        if value is not True:
            words.append(str(value))
    return words


@hookimpl
def qwend_engines() -> list[Make | Serve]:
    return [Make(), Job(), Talk(), Serve(), ServeData(), ServeGpu(), MakeGpu()]
