"""Engines and sources with a guard around every call into plugin code.

A guard leaves a breadcrumb (so that a hang can be laid at the right door), turns whatever a plugin raises, `sys.exit`
included, into one QwendError that names it, and hands on only what is of the promised type and serialises.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args

import msgspec

from qwend.errors import QwendError
from qwend.model.artifact import Pin
from qwend.model.host import Flavour, Host
from qwend.model.image import Image
from qwend.model.launch import Launch
from qwend.model.source import Question, Resolution
from qwend.plugin.protocols import Engine, Finding, Params, Product, Source, StepView

log = logging.getLogger("qwend.plugins")

ENGINE_NAME = re.compile(r"[a-z][a-z0-9-]*/[a-z][a-z0-9-]*")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
ARTIFACT_TYPE = re.compile(r"[a-z][a-z0-9-]*(/[a-z][a-z0-9-]*)?")
FLAVOURS = get_args(Flavour)

T = TypeVar("T")
Crumb = Callable[[str, str], None]
"""Called with plugin and deed before plugin code runs, and with two empty words after it."""


def no_crumb(plugin: str, doing: str) -> None:
    """For callers that nobody watches."""


class PluginFailed(QwendError):
    """Plugin code raised, or gave what it may not give."""

    default_code = "plugin-failed"

    def __init__(self, message: str, *, plugin: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.plugin = plugin


class Guard:
    """Calls the code of one plugin."""

    def __init__(self, plugin: str, crumb: Crumb = no_crumb) -> None:
        self.plugin = plugin
        self._crumb = crumb

    def call(self, doing: str, function: Callable[..., T], *arguments: Any) -> T:
        """What the function gives. Raises its own QwendErrors as they are, anything else as PluginFailed."""
        self._crumb(self.plugin, doing)
        try:
            return function(*arguments)
        except QwendError:
            raise
        except BaseException as error:  # sys.exit and the like are a plugin's failures too
            log.error("plugin %s failed in %s", self.plugin, doing, exc_info=error)
            raise self.failed(doing, describe(error)) from None
        finally:
            self._crumb("", "")

    def typed(self, doing: str, kind: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """As `call`, the answer rebuilt from its own JSON: equal data of type `kind` and of nothing else."""
        return self.call(doing, lambda: _rebuilt(function(*arguments), kind))

    def failed(self, doing: str, what: str) -> PluginFailed:
        return PluginFailed(
            f"plugin {self.plugin} failed in {doing}: {what}",
            plugin=self.plugin,
            hint=f"qwend plugins check {self.plugin} says more",
        )


def describe(error: BaseException) -> str:
    """`ZeroDivisionError: division by zero (engines.py:41)`: the exception and where it was raised."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{name}: {text[:300]}{place}" if text else f"{name}{place}"


def _rebuilt(value: Any, kind: Any) -> Any:
    try:
        return msgspec.json.decode(msgspec.json.encode(value), type=kind)
    except (TypeError, msgspec.MsgspecError, ValueError) as error:
        wanted = getattr(kind, "__name__", None) or str(kind).replace("qwend.model.", "")
        raise TypeError(f"gives what is no valid {wanted}: {error}") from None


class GuardedEngine:
    """An `Engine` of a plugin; it is one itself. Its description is read once, when it is registered."""

    name: str
    kind: Literal["job", "service", "interactive"]
    revision: int
    summary: str
    params: type[Params]
    accepts: tuple[str, ...]
    many: bool
    flavours: tuple[str, ...]
    select: bool
    first: Mapping[str, tuple[str, ...]]

    def __init__(self, engine: Engine, guard: Guard, distribution: str = "") -> None:
        self._engine = engine
        self._guard = guard
        self.plugin = guard.plugin
        self.distribution = distribution
        """Distribution and version, for the provenance."""
        said: dict[str, Any] = guard.call(
            "its description", lambda: {key: getattr(engine, key) for key in _SAID}
        )
        problem = engine_problem(said)
        if problem:
            raise guard.failed(f"the description of {said['name']!r:.80}", problem)
        for key, value in said.items():
            setattr(self, key, tuple(value) if key in ("accepts", "flavours") else value)
        self.select = bool(getattr(engine, "select", False))
        self.first = guard.typed(
            f"first of {self.name}", dict[str, tuple[str, ...]], lambda: dict(getattr(engine, "first", {}))
        )
        self.schema: dict[str, Any] = guard.call(
            f"the schema of {self.name}", lambda: self.params.model_json_schema(by_alias=True)
        )

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        engine = self._engine
        found: list[Finding] = self._guard.typed(
            self._doing("check", step), list[Finding], lambda: list(engine.check(step, host) or ())
        )
        return found

    def product(self, step: StepView) -> Product | None:
        made: Product | None = self._guard.typed(
            self._doing("product", step), Product | None, self._engine.product, step
        )
        if self.kind == "job" and made is None:
            raise self._guard.failed(self._doing("product", step), "a job has to say what it makes")
        return made

    def image(self, step: StepView, host: Host) -> Image:
        image: Image = self._guard.typed(self._doing("image", step), Image, self._engine.image, step, host)
        return image

    def launch(self, step: StepView, host: Host) -> Launch:
        launch: Launch = self._guard.typed(
            self._doing("launch", step), Launch, self._engine.launch, step, host
        )
        return launch

    def metrics(self, step: StepView) -> list[str] | None:
        """The figures that the step will report; None where the engine does not tell."""
        told = getattr(self._engine, "metrics", None)
        if told is None:
            return None
        names: list[str] | None = self._guard.typed(
            self._doing("metrics", step), list[str] | None, lambda: _listed(told(step))
        )
        return names

    def _doing(self, what: str, step: StepView) -> str:
        return f"{self.name}.{what} for step {step.name}"


def _listed(names: Iterable[str] | None) -> list[str] | None:
    return None if names is None else list(names)


class GuardedSource:
    """A `Source` of a plugin; it is one itself."""

    scheme: str
    summary: str
    revision: int

    def __init__(self, source: Source, guard: Guard, distribution: str = "") -> None:
        self._source = source
        self._guard = guard
        self.plugin = guard.plugin
        self.distribution = distribution
        said: dict[str, Any] = guard.call(
            "its description",
            lambda: {key: getattr(source, key) for key in ("scheme", "summary", "revision")},
        )
        problem = source_problem(said)
        if problem:
            raise guard.failed(f"the description of {said['scheme']!r:.80}", problem)
        self.scheme, self.summary, self.revision = said["scheme"], said["summary"], said["revision"]
        self.examples: tuple[str, ...] = tuple(getattr(source, "examples", ()))

    def check(self, reference: str) -> Iterable[Finding]:
        source = self._source
        found: list[Finding] = self._guard.typed(
            f"check of {reference:.80}", list[Finding], lambda: list(source.check(reference) or ())
        )
        return found

    def resolve(self, reference: str, options: dict[str, Any], host: Host) -> Resolution:
        doing = f"resolve of {reference:.80}"
        found: Resolution = self._guard.typed(
            doing, Resolution, self._source.resolve, reference, options, host
        )
        if found.pin is None and found.question is None:
            raise self._guard.failed(doing, "gives neither a pin nor a question")
        return found

    def fetch(self, pin: Pin, options: dict[str, Any], host: Host) -> Question | None:
        question: Question | None = self._guard.typed(
            f"fetch of {pin.ref:.80}", Question | None, self._source.fetch, pin, options, host
        )
        return question


_SAID = ("name", "kind", "revision", "summary", "params", "accepts", "many", "flavours")


def engine_problem(said: dict[str, Any]) -> str | None:
    """What is wrong with how an engine describes itself, or None."""
    name, params = said["name"], said["params"]
    if not isinstance(name, str) or not ENGINE_NAME.fullmatch(name):
        return "name should be plugin/engine in lower case"
    if said["kind"] not in ("job", "service", "interactive"):
        return f"kind should be job, service or interactive, not {said['kind']!r:.40}"
    if not _positive(said["revision"]):
        return f"revision should be a number from 1, not {said['revision']!r:.40}"
    if not isinstance(said["summary"], str) or not said["summary"].strip():
        return "summary should say in a line what it does"
    if not (isinstance(params, type) and issubclass(params, Params)):
        return "params should be a subclass of qwend.plugin.Params"
    if not _words(said["accepts"], ARTIFACT_TYPE.fullmatch):
        return f"accepts should list artifact types, not {said['accepts']!r:.80}"
    if not isinstance(said["many"], bool):
        return "many should be true or false"
    if not said["flavours"] or not _words(said["flavours"], FLAVOURS.__contains__):
        return f"flavours should be some of {', '.join(FLAVOURS)}, not {said['flavours']!r:.80}"
    return None


def source_problem(said: dict[str, Any]) -> str | None:
    """What is wrong with how a source describes itself, or None."""
    if not isinstance(said["scheme"], str) or not SCHEME.fullmatch(said["scheme"]):
        return "scheme should be a word in lower case"
    if not isinstance(said["summary"], str) or not said["summary"].strip():
        return "summary should say in a line what it resolves"
    return None if _positive(said["revision"]) else "revision should be a number from 1"


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _words(value: Any, known: Callable[[str], Any]) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(word, str) and known(word) for word in value)
