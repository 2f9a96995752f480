"""The kit that checks a plugin the way `qwend plugins check` does.

    from qwend.plugin.testing import check_engine

    def test_my_engine_keeps_the_contract():
        assert check_engine(MyEngine()) == []

It makes up steps from the engine's own description (`plugin.samples`), asks for everything that a plan asks for,
and holds the answers against the contract: data that serialises, no path of this machine, the same answer twice,
nothing done while describing. It runs no engine.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from qwend.errors import QwendError
from qwend.model.artifact import ARTIFACT_TYPES
from qwend.model.host import Host
from qwend.model.image import Image
from qwend.model.launch import Launch, OutputRef, PortRef
from qwend.model.source import Resolution
from qwend.plugin.launches import dangling, references, texts, writes_output
from qwend.plugin.protocols import Engine, Finding, Given, Product, Source, StepView
from qwend.plugin.purity import watched
from qwend.plugin.samples import HOSTS, NoSample, views

__all__ = ["check_engine", "check_plugin", "check_source", "views"]

_MOST = 200
"""So many sampled steps of one engine are asked about."""


def check_plugin(engines: Iterable[Engine], sources: Iterable[Source]) -> list[tuple[str, Finding]]:
    """Everything that is wrong with a plugin's engines and sources, each finding with what it is about."""
    found = [(engine.name, finding) for engine in engines for finding in check_engine(engine)]
    return found + [(f"{s.scheme}:", finding) for s in sources for finding in check_source(s)]


def check_engine(engine: Engine) -> list[Finding]:
    """What keeps an engine from the contract; empty if nothing does."""
    found = {finding.message: finding for finding in _described(engine)}
    try:
        for special, step, host in itertools.islice(views(engine), _MOST):
            for finding in _step(engine, step, host):  # one mistake shows in many sampled steps
                told = msgspec.structs.replace(finding, message=f"{special}: {finding.message}")
                found.setdefault(finding.message, told)
    except NoSample as error:
        found[""] = Finding(str(error), "params")
    except Exception as error:  # a schema or validator that breaks
        found[""] = Finding(f"no step can be made up from its parameters: {_said(error)}", "params")
    return list(found.values())


def check_source(source: Source) -> list[Finding]:
    """What keeps a source from the contract. `examples` of the source, if it has some, are resolved."""
    found = []
    for bad in (f"{source.scheme}:", f"{source.scheme}:\n\0", f"{source.scheme}:" + "x" * 5000):
        try:
            if not any(finding.level == "error" for finding in source.check(bad)):
                found.append(Finding(f"check finds nothing wrong with {bad[:30]!r}"))
        except Exception as error:
            found.append(Finding(f"check raises for {bad[:30]!r}: {_said(error)}"))
    for example in getattr(source, "examples", ()):
        found += list(_example(source, example))
    return list(dict.fromkeys(found))


def _example(source: Source, example: str) -> Iterator[Finding]:
    options: dict[str, Any] = {"kind": "model", "wants": ["model/safetensors"], "directory": "/nowhere"}
    host = HOSTS["cpu"]
    try:
        wrong = [finding.message for finding in source.check(example)]
        with watched() as deeds:
            answers = [source.resolve(example, dict(options), host) for _ in range(2)]
    except Exception as error:
        yield Finding(f"{example}: {_said(error)}")
        return
    yield from (Finding(f"{example}: its own check says {text}") for text in wrong)
    yield from (
        Finding(f"{example}: resolve {deed}") for deed in deeds if "network" in deed or "process" in deed
    )
    if answers[0] != answers[1]:
        yield Finding(f"{example}: resolve gives two answers")
    problem = _serial(answers[0], Resolution)
    if problem:
        yield Finding(f"{example}: {problem}")
    if answers[0].pin is not None and answers[0].local is None and not answers[0].pin.identity:
        yield Finding(f"{example}: its pin has no identity")


def _described(engine: Engine) -> Iterator[Finding]:
    if len(engine.summary) > 100 or "\n" in engine.summary:
        yield Finding("the summary should be one line of at most 100 characters", "summary")
    for kind in engine.accepts:
        if kind not in ARTIFACT_TYPES:
            yield Finding(f"accepts {kind}, which no other engine makes", "accepts", level="warning")
    config = engine.params.model_config
    if config.get("extra") != "forbid" or not config.get("frozen"):
        yield Finding(
            "parameters should forbid unknown keys and be frozen, as qwend.plugin.Params does", "params"
        )
    for name, field in engine.params.model_fields.items():
        if not field.description:
            yield Finding(f"parameter {name} has no description: it is what editors show", f"with.{name}")


def _step(engine: Engine, step: StepView, host: Host) -> Iterator[Finding]:
    """One sampled step, asked for all that a plan asks for, twice."""
    asked: tuple[tuple[str, Callable[[], Any], Any], ...] = (
        ("check", lambda: list(engine.check(step, host)), list[Finding]),
        ("product", lambda: engine.product(step), Product | None),
        ("image", lambda: engine.image(step, host), Image),
        ("launch", lambda: engine.launch(step, host), Launch),
    )
    told = getattr(engine, "metrics", None)
    if told is not None:
        asked += (("metrics", lambda: list(told(step) or ()), list[str]),)
    said: dict[str, Any] = {}
    for what, ask, kind in asked:
        try:
            with watched() as deeds:
                said[what], again = ask(), ask()
        except QwendError as error:
            if error.code != "plugin-failed" and what == "check":
                yield Finding(f"check raises {error.message!r}; it should give a Finding")
            else:
                yield Finding(f"{what}: {error.message}")
            return
        except BaseException as error:
            yield Finding(f"{what} raises {_said(error)}")
            return
        yield from (Finding(f"{what} {deed}: an engine describes and does nothing") for deed in deeds)
        if said[what] != again:
            yield Finding(f"{what} gives two answers to one question")
        problem = _serial(said[what], kind)
        if problem:
            yield Finding(f"{what} {problem}")
            return
        if any(finding.level == "error" for finding in said.get("check", ())):
            return  # this engine does not take such a step, and says so
    yield from _produced(engine, said["product"])
    yield from _launched(engine, step, said["launch"])


def _produced(engine: Engine, product: Product | None) -> Iterator[Finding]:
    if engine.kind == "job" and product is None:
        yield Finding("product: a job has to say what it makes")
    if engine.kind != "job" and product is not None:
        yield Finding(f"product: a {engine.kind} engine makes nothing")
    if product is not None and product.type not in ARTIFACT_TYPES:
        yield Finding(f"product: {product.type} is no known artifact type", level="warning")


def _launched(engine: Engine, step: StepView, launch: Launch) -> Iterator[Finding]:
    if not launch.argv:
        yield Finding("launch: there is no command")
    names = _reachable([*step.inputs, *(one for many in step.given.values() for one in many)])
    problem = dangling(launch, names, {*launch.secrets, *step.secrets})
    if problem:
        yield Finding(f"launch {problem}")
    for text in texts(launch):
        place = next((root for root in _private_places() if root in text), None)
        if place is not None:
            yield Finding(f"launch names a path of this machine: {text[:80]}")
    has_port = any(isinstance(ref, PortRef) for ref in references(launch))
    if engine.kind == "service" and (launch.probe is None or not has_port):
        yield Finding("launch: a service needs a probe, and its port (PortRef) in the command or environment")
    if engine.kind != "service" and launch.probe is not None:
        yield Finding(f"launch: a {engine.kind} engine has no probe")
    if engine.kind == "job" and not writes_output(launch) and not getattr(engine, "select", False):
        yield Finding("launch: nothing says where the output goes (OutputRef)")
    if engine.kind == "service" and any(isinstance(ref, OutputRef) for ref in references(launch)):
        yield Finding("launch: a service has no output; ScratchRef is a folder it may write to")
    files = [file.name for file in launch.files]
    if len(set(files)) < len(files) or any("/" in name or not name for name in files):
        yield Finding("launch: its files need names of their own, without folders")
    yield from _patterns(launch)


def _patterns(launch: Launch) -> Iterator[Finding]:
    for pattern in launch.progress:
        groups = _groups(pattern.regex)
        if groups is None:
            yield Finding(f"launch: {pattern.regex!r} is no regular expression")
        elif not ({"done", "total"} <= groups or "percent" in groups):
            yield Finding(f"launch: {pattern.regex!r} needs the groups done and total, or percent")
    for hint in launch.hints:
        groups = _groups(hint.regex)
        if groups is None:
            yield Finding(f"launch: {hint.regex!r} is no regular expression")
            continue
        missing = set(re.findall(r"\{(\w+)\}", hint.message + hint.hint)) - groups
        if missing:
            yield Finding(f"launch: {hint.regex!r} has no group {', '.join(sorted(missing))}")


def _groups(regex: str) -> set[str] | None:
    try:
        return set(re.compile(regex).groupindex)
    except re.error:
        return None


def _reachable(inputs: list[Given]) -> set[str]:
    found: set[str] = set()
    pending = list(inputs)
    while pending:
        one = pending.pop()
        if one.name not in found:
            found.add(one.name)
            pending += one.lineage
    return found


def _private_places() -> list[str]:
    """Folders of this machine that can be no part of a Launch."""
    places = {os.path.expanduser("~"), os.getcwd(), sys.prefix, sys.base_prefix, tempfile.gettempdir()}
    return [place for place in places if len(place) > 1 and place not in ("/usr", "/usr/local")]


def _serial(value: Any, kind: Any) -> str | None:
    try:
        if msgspec.json.decode(msgspec.json.encode(value), type=kind) == value:
            return None
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        return f"gives what does not serialise: {error}"
    return "gives what is not the same after JSON: lists for tuples, or a type of its own"


def _said(error: BaseException) -> str:
    return error.message if isinstance(error, QwendError) else f"{type(error).__name__}: {error}"
