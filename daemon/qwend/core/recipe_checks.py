"""What types and ranges cannot say of a recipe.

Pure, and tolerant: it looks at data that may be wrong elsewhere, so that all mistakes are told at once.
"""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from qwend.core import gate
from qwend.core.edges import Names, texts
from qwend.core.engine_info import EngineInfo
from qwend.core.explain import Problem
from qwend.core.lens import Path
from qwend.core.references import leaves_folder, parse_name, parse_source
from qwend.core.secret_checks import reference_secret, step_secrets
from qwend.core.suggest import did_you_mean
from qwend.core.wording import quote, show

SERVICE_ONLY = ("port", "host", "health", "restart", "idle", "replace")
JOB_ONLY = ("timeout", "retries", "keep", "out", "expect")
SMOKE_MODELS = ("qwen2", "qwen3", "qwen3moe")
API_KEY = "api_key"
"""The name of the secret that a service listening beyond loopback must have."""


def engine_problem(name: str, uses: Any, engines: Mapping[str, EngineInfo]) -> Problem | None:
    """Whether an engine of that name is there; a wrong type was reported elsewhere."""
    if not isinstance(uses, str) or uses in engines:
        return None
    path: Path = ("steps", name, "uses")
    if not engines:
        return Problem(path, f"unknown engine {quote(uses)}", "no plugin brings any: qwend plugins ls")
    alone = [engine for engine in engines if engine.endswith("/" + uses)]
    guess = f"; did you mean {alone[0]}?" if alone else did_you_mean(uses, engines)
    plugins = list(dict.fromkeys(engine.partition("/")[0] for engine in engines))
    plugin = uses.partition("/")[0]
    if plugin in plugins:
        mine = [engine for engine in engines if engine.startswith(plugin + "/")]
        return Problem(path, f"unknown engine {quote(uses)}{guess}", f"{plugin} has {', '.join(mine[:12])}")
    return Problem(path, f"unknown engine {quote(uses)}{guess}", "qwend plugins ls shows all")


def kind_problems(name: str, step: Mapping[str, Any], engine: EngineInfo) -> Iterator[Problem]:
    """Keys that say nothing to an engine of this kind, and inputs that it does not take."""
    path: Path = ("steps", name)
    if engine.kind != "service":
        for key in SERVICE_ONLY:
            if key in step:
                yield Problem(
                    (*path, key), f"is for services; {engine.name} is {_a(engine.kind)}", None, True
                )
    if engine.kind != "job":
        for key in JOB_ONLY:
            if key in step:
                yield Problem((*path, key), f"is for jobs; {engine.name} is {_a(engine.kind)}", None, True)
    if engine.accepts and not list(texts(step.get("from"))) and not isinstance(step.get("from"), (dict, int)):
        kinds = ", ".join(engine.accepts[:8])
        yield Problem(
            (*path, "from"), f"is required: {engine.name} reads {kinds}", "name a model, dataset or step"
        )
    if not engine.accepts and "from" in step:
        yield Problem((*path, "from"), f"{engine.name} takes no input", None, True)
    if step.get("device") == "cpu" and step.get("gpus") not in (None, 0, []):
        yield Problem((*path, "gpus"), "device is cpu, which has no cards", "leave out one of the two", True)


def step_problems(name: str, step: Mapping[str, Any], names: Names) -> Iterator[Problem]:
    """Address, idle, cards, output folder, gates, secrets in the wrong place."""
    path: Path = ("steps", name)
    yield from step_secrets(path, step)
    if step.get("idle") is not None:
        yield Problem(
            (*path, "idle"),
            "idle needs the gateway, which this version does not have",
            "leave it out: the service stays loaded until it is stopped",
            True,
        )
    yield from _address(path, step)
    gpus = step.get("gpus")
    if isinstance(gpus, list):
        for index, card in enumerate(gpus):
            if card in gpus[:index]:
                yield Problem((*path, "gpus", index), "this card is in the list twice")
            elif isinstance(card, int) and card < 0:
                yield Problem((*path, "gpus", index), "cards count from 0")
    out = step.get("out")
    if isinstance(out, str):
        problem = _out_problem(out) if name not in names.variants else "cannot hold the steps of a matrix"
        if problem:
            yield Problem((*path, "out"), problem)
    if "port" in step and name in names.variants:
        yield Problem((*path, "port"), "cannot be held by every step of a matrix", "leave it out", True)
    for below, text in texts(step.get("expect")):
        yield from _gate((*path, "expect", *below), text, name, names)


def source_problems(kind: str, name: str, given: Any, schemes: tuple[str, ...]) -> Iterator[Problem]:
    """References of a model or dataset, as far as their syntax goes."""
    path: Path = (kind, name)
    places = [(path, given)]
    if isinstance(given, dict):
        places = [((*path, "from"), given.get("from"))]
        smoke = given.get("smoke")
        if isinstance(smoke, str) and ":" in smoke:
            places.append(((*path, "smoke"), smoke))
        elif isinstance(smoke, str) and smoke not in SMOKE_MODELS:
            guess = did_you_mean(smoke, SMOKE_MODELS)
            hint = f"it is one of {', '.join(SMOKE_MODELS)}, or a reference such as file:tiny.json"
            yield Problem((*path, "smoke"), f"unknown stand-in {quote(smoke)}{guess}", hint)
    for place, value in places:
        for below, text in texts(value):
            secret = reference_secret((*place, *below), text)
            if secret is not None:
                yield secret
                continue
            try:
                parse_source(text, schemes)
            except ValueError as error:
                yield Problem((*place, *below), str(error))


def same_out(steps: Mapping[str, Any]) -> Iterator[Problem]:
    """Two steps that would write one folder."""
    seen: dict[str, str] = {}
    for name, step in steps.items():
        out = step.get("out") if isinstance(step, dict) else None
        if not isinstance(out, str):
            continue
        folder = posixpath.normpath(out)
        if folder in seen:
            yield Problem(("steps", name, "out"), f"is the folder of {seen[folder]} too")
        seen.setdefault(folder, name)


def _address(path: Path, step: Mapping[str, Any]) -> Iterator[Problem]:
    host = step.get("host")
    if not isinstance(host, str) or host == "localhost":
        return
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        yield Problem((*path, "host"), f"{quote(host)} is no address", "write 127.0.0.1, or 0.0.0.0 for all")
        return
    secrets = step.get("secrets")
    if not address.is_loopback and API_KEY not in (secrets if isinstance(secrets, list) else []):
        yield Problem(
            (*path, "host"),
            f"{host} can be reached from other machines, and the service has no key",
            f"add secrets: [{API_KEY}], or listen on 127.0.0.1",
        )


def _out_problem(out: str) -> str | None:
    if show(out, 4096) != out:
        return f"{quote(out)} holds characters that a folder's name should not have"
    if leaves_folder(out):
        return f"{quote(out)} leaves the recipe's folder; give an absolute path, or move the recipe up"
    if posixpath.normpath(out) in (".", "/", "//"):
        return f"{quote(out)} is a folder with other things in it; name a folder of its own"
    return None


def _gate(path: Path, text: str, name: str, names: Names) -> Iterator[Problem]:
    try:
        parsed = gate.parse(text)
    except gate.GateSyntaxError as error:
        yield Problem(path, str(error), "write METRIC <= NUMBER, or STEP.METRIC <= 1.01 * STEP.METRIC")
        return
    for metric in parsed.metrics:
        if metric.step is None:
            continue
        try:
            step = parse_name(metric.step)
            if step.name == name:
                continue
            meant = names.resolve(metric.step, user=name)
        except ValueError as error:
            yield Problem(path, str(error))
            continue
        if len(meant) > 1:
            yield Problem(path, f"{metric.step} is {len(meant)} steps", f"name one: {', '.join(meant[:8])}")


def _a(kind: str) -> str:
    return {"job": "a job", "service": "a service"}.get(kind, "attached to your terminal")
