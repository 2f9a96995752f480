"""The services of a plan as a file for `docker compose`: each as confined as qwend would run it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qwend.core.binding import Places, bind
from qwend.core.exported import Made, Part, folder_name, image_of
from qwend.core.wording import listing
from qwend.errors import UsageError
from qwend.model.image import IMAGE_USER, HostProgram, ImageSpec
from qwend.model.launch import Launch

Json = dict[str, Any]

_DRIVERS = "/opt/drivers"
_SECRETS = "/run/secrets"


def compose_file(recipe: str, parts: Sequence[Part]) -> tuple[Json, dict[str, str]]:
    """The document, and by relative path the files beside it (drivers: compose gives no text to a container that is
    read-only). Raises UsageError where there is no service, or one that reads what is not made yet."""
    services: Json = {}
    files: dict[str, str] = {}
    secrets: Json = {}
    made = {part.step.name: part.made for part in parts}
    wrong: list[UsageError] = []
    for part in (one for one in parts if one.step.kind == "service"):
        try:
            name = folder_name(part.step.name)
            services[name] = _service(part, made, files, secrets)
        except UsageError as error:
            wrong.append(error)
    if wrong:
        raise UsageError("it cannot be exported yet", code="not-exportable", details=tuple(wrong))
    if not services:
        raise UsageError(f"{recipe} serves nothing: there is nothing to export", code="no-service")
    document = {"name": f"{recipe.replace('_', '-')}-exported", "services": services}
    return document | ({"secrets": secrets} if secrets else {}), files


def _service(part: Part, made: Mapping[str, Made | None], files: dict[str, str], secrets: Json) -> Json:
    step, launch, port = part.step, part.step.launch, part.port
    assert launch is not None
    if isinstance(step.image, HostProgram) or step.image is None:
        raise UsageError(
            f"{step.name} runs a program of this machine, which no container has",
            where=step.where or None,
            hint="take an engine that has an image",
        )
    inputs = {edge.name: made.get(edge.step) for edge in step.inputs}
    if lacking := [name for name, one in inputs.items() if one is None]:
        raise UsageError(
            f"{step.name} reads {listing(lacking, 'and')}, which is not made yet",
            where=step.where or None,
            hint="qwend up makes it",
        )
    there = {name: one for name, one in inputs.items() if one is not None}
    argv, env = bind(launch, _places(part, there))
    env = {
        "HOME": "/scratch", "TMPDIR": "/scratch", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(part.threads), **step.image.env, **env,
    }  # fmt: skip
    service: Json = {
        "image": image_of(part),
        **({"pull_policy": "never"} if isinstance(step.image, ImageSpec) else {}),
        "entrypoint": [_literal(word) for word in argv],
        "command": [],
        "environment": {name: _literal(value) for name, value in env.items()},
        "working_dir": "/scratch",
        "volumes": [volume for name, one in there.items() for volume in _volumes(name, one)],
        "ports": [
            {"mode": "host", "host_ip": _address(step.policy.host), "published": str(port), "target": port}
        ],
        "restart": _restart(part),
        "stop_grace_period": f"{step.policy.stop_grace_s:g}s",
        "user": f"{IMAGE_USER}:{IMAGE_USER}",
        "read_only": True,
        "tmpfs": ["/tmp:exec,mode=1777", "/scratch:exec,mode=1777"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 4096,
        "init": True,
    }
    if launch.files:
        folder = f"drivers/{folder_name(step.name)}"
        files |= {f"{folder}/{file.name}": file.content for file in launch.files}
        service["volumes"].append(_mount(f"./{folder}", _DRIVERS))
    for name in step.secrets:
        variable = f"{name.upper()}_FILE"
        secrets[name] = {"file": f"${{{variable}:?a file that holds the secret {name}}}"}
    if step.secrets:
        service["secrets"] = list(step.secrets)
    if check := _healthcheck(part, launch):
        service["healthcheck"] = check
    if step.policy.memory is not None:
        service["mem_limit"] = service["memswap_limit"] = step.policy.memory
    if launch.shm is not None:
        service["shm_size"] = launch.shm
    if step.resources.gpus:
        cards: Json = {"driver": "nvidia", "capabilities": ["gpu"]}
        cards |= (
            {"device_ids": list(step.policy.gpus)} if step.policy.gpus else {"count": step.resources.gpus}
        )
        service["deploy"] = {"resources": {"reservations": {"devices": [cards]}}}
    return service


def _places(part: Part, inputs: Mapping[str, Made]) -> Places:
    return Places(
        inputs={name: f"/in/{name}" for name in inputs},
        contents={name: tuple(made.files) for name, made in inputs.items()},
        output="/scratch/out",
        scratch="/scratch",
        drivers=_DRIVERS,
        secrets={name: f"{_SECRETS}/{name}" for name in part.step.secrets},
        image="/opt/qwend",
        bind="0.0.0.0",
        port=part.port,
        threads=part.threads,
    )


def _volumes(name: str, made: Made) -> list[Json]:
    """One mount, or one for each file where some lie elsewhere."""
    if all(real == f"{made.folder}/{path}" for path, real in made.files.items()):
        return [_mount(made.folder, f"/in/{name}")]
    return [_mount(real, f"/in/{name}/{path}") for path, real in made.files.items()]


def _mount(source: str, target: str) -> Json:
    read = {"type": "bind", "source": _literal(source), "target": _literal(target), "read_only": True}
    return {**read, "bind": {"create_host_path": False}}


def _restart(part: Part) -> str:
    policy = part.step.policy.restart
    if policy.policy == "on-failure" and policy.max is not None:
        return f"on-failure:{policy.max}"
    return policy.policy


def _healthcheck(part: Part, launch: Launch) -> Json | None:
    """The probe of readiness, asked by the Python that is in every image of ours."""
    if (
        launch.probe is None
        or not isinstance(part.step.image, ImageSpec)
        or launch.probe.ready.body is not None
    ):
        return None
    ask = f'import urllib.request as u; u.urlopen("http://127.0.0.1:{part.port}{launch.probe.ready.path}", timeout=8)'
    deadline = part.step.policy.deadline_s or launch.probe.deadline_s
    return {
        "test": ["CMD", "python3", "-c", _literal(ask)],
        "interval": f"{launch.probe.interval_s:g}s",
        "timeout": "10s",
        "retries": launch.probe.failures,
        "start_period": f"{math.ceil(deadline)}s",
    }


def _literal(text: str) -> str:
    """A text in which compose finds no variable."""
    return text.replace("$", "$$")


def _address(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host
