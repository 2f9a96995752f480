"""What the user wrote: the recipe language, version 1, as pydantic models.

Their JSON Schema is what `qwend schema` prints, and `recipes/README.md` is held to it by a test. They are
validated from JSON, so lists arrive as tuples; short forms (one name instead of a list) are made long here.
Only the planner worker imports this module; the daemon sees compiled plans.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

NAME = r"^[a-z][a-z0-9_]*$"
ENVIRONMENT_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
EnvironmentName = Annotated[str, StringConstraints(pattern=ENVIRONMENT_NAME, max_length=128)]

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([kKmMgGtT]?)(i?)[bB]?")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def seconds(value: object) -> object:
    """`90`, `1m30s`, `15m`, `250ms` in seconds (float)."""
    if isinstance(value, str):
        parts = _DURATION.findall(value) if len(value) < 64 else []
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise ValueError(f"{_cut(value)} is no duration; write it as 30s, 5m or 1h30m")
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return _number(value, "a duration such as 30s or 5m, or a number of seconds")


def size(value: object) -> object:
    """`8GiB`, `512M`, `1.5g` in bytes (int); like docker, `g` and `GiB` both mean 1024**3."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip()) if len(value) < 64 else None
        if match is None:
            raise ValueError(f"{_cut(value)} is no size; write it as 512M or 8GiB")
        return int(float(match[1]) * 1024 ** _POWER[match[2].lower()])
    return _number(value, "a size such as 512M or 8GiB, or a number of bytes")


def one_or_many(value: object) -> object:
    """`a` and `[a]` are the same: a tuple of one."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple)):
        return tuple(value)
    raise PydanticCustomError("name_or_names", "should be a name or a list of names")


def _source(value: object) -> object:
    if isinstance(value, (dict, BaseModel)):
        return value
    if isinstance(value, (str, list, tuple)):
        return {"from": value}
    raise PydanticCustomError("source", "should be a reference, a list of mirrors, or a mapping with from:")


def _restart(value: object) -> object:
    return {"policy": value} if isinstance(value, str) else value


def _number(value: object, wanted: str) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticCustomError("wanted", "should be {wanted}", {"wanted": wanted})
    return value


def _cut(value: str) -> str:
    return f'"{value[:40]}…"' if len(value) > 40 else f'"{value}"'


Duration = Annotated[float, Field(ge=0), BeforeValidator(seconds, json_schema_input_type=str | float)]
Size = Annotated[int, Field(gt=0), BeforeValidator(size, json_schema_input_type=str | int)]
Names = Annotated[tuple[str, ...], BeforeValidator(one_or_many, json_schema_input_type=str | list[str])]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Restart(Strict):
    """When a service is started again after it ended. A word alone (`restart: always`) is its policy."""

    policy: Literal["no", "on-failure", "always"] = Field("on-failure", description="when to start it again")
    max: int | None = Field(
        5, ge=0, description="starts in a row before the service is failed; null: no limit"
    )
    backoff: Duration = Field(1.0, description="wait before the first restart; doubles each time")
    cap: Duration = Field(60.0, description="the longest wait")
    reset: Duration = Field(300.0, description="so much health begins the count anew")


class Health(Strict):
    """How a service is watched; what is left out is the engine's own choice."""

    interval: Duration | None = Field(None, gt=0, description="time between two liveness probes")
    deadline: Duration | None = Field(
        None, gt=0, description="bound on the start, instead of the one by size of weights"
    )


class When(Strict):
    """A condition on the machine; a step whose condition fails is left out, with what depends on it."""

    device: Literal["cpu", "cuda", "apple"] | None = Field(None, description="the device that was chosen")
    system: Literal["linux", "darwin"] | None = Field(None, description="the operating system")


class SourceSpec(Strict):
    """A model or dataset. A reference alone, or a list of mirrors, is its `from`."""

    from_: Names = Field(
        alias="from", min_length=1, max_length=16, description="a reference, or mirrors tried in order"
    )
    smoke: str | None = Field(
        None,
        description="what stands for it under --smoke: qwen2, qwen3, qwen3moe, or a reference such as file:tiny.json",
    )
    column: str | None = Field(None, min_length=1, max_length=256, description="the column with the text")
    sample: int | None = Field(None, ge=1, description="take so many rows")
    seed: int | None = Field(None, ge=0, lt=2**32, description="seed of the sample")
    type: str | None = Field(None, description="the artifact type, where it cannot be told from the files")
    allow_pickle: bool = Field(False, description="accept pickled weights (they can run code)")


Source = Annotated[SourceSpec, BeforeValidator(_source, json_schema_input_type=str | list[str] | SourceSpec)]
Device = Literal["auto", "cpu", "cuda", "apple"]
RuntimeName = Literal["auto", "docker", "native", "kubernetes"]


class Step(Strict):
    """One node of the recipe."""

    uses: str = Field(max_length=128, description="the engine, as plugin/engine")
    from_: Names = Field(
        (), alias="from", max_length=256, description="the main input or inputs: models, datasets or steps"
    )
    with_: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="the engine's own parameters"
    )
    matrix: dict[str, tuple[Any, ...]] | None = Field(
        None, min_length=1, max_length=4, description="one step per value of a parameter"
    )
    needs: Names = Field((), max_length=256, description="steps that must be done first, without their data")
    when: When | None = Field(None, description="leave the step out unless this holds")
    profiles: tuple[Name, ...] = Field((), description="only with one of these profiles")
    runtime: RuntimeName = Field("auto", description="where it runs")
    device: Device = Field("auto", description="what it runs on; cuda never falls back to cpu")
    gpus: Annotated[int, Field(ge=0, le=1024)] | tuple[int | str, ...] | None = Field(
        None, description="how many cards, or a list of them (PCI index or UUID)"
    )
    gpu_share: float = Field(1.0, gt=0, le=1, description="the share of each card that it takes")
    memory: Size | None = Field(None, description="host memory that it may take")
    cpus: float | None = Field(None, gt=0, description="CPU cores that it may take")
    env: dict[EnvironmentName, str] = Field(
        default_factory=dict, description="environment variables (in the fingerprint)"
    )
    secrets: tuple[Name, ...] = Field((), description="names of secrets that it may read as files")
    extra_args: tuple[str, ...] = Field(
        (), max_length=256, description="more arguments for the tool, as a list (in the fingerprint)"
    )
    network: Literal["none", "egress"] | None = Field(
        None, description="none, or egress for a step that must reach out"
    )
    health: Health | None = Field(None, description="how a service is watched")
    stop_grace: Duration = Field(10.0, description="time between SIGTERM and SIGKILL")
    timeout: Duration | None = Field(None, gt=0, description="bound on a job")
    retries: int = Field(0, ge=0, le=100, description="further attempts of a failed job")
    restart: (
        Annotated[
            Restart,
            BeforeValidator(_restart, json_schema_input_type=Literal["no", "on-failure", "always"] | Restart),
        ]
        | None
    ) = Field(None, description="restart policy of a service")
    idle: Duration | None = Field(None, description="unload a service after so long without a request")
    replace: Literal["rolling", "stop-first"] | None = Field(
        None, description="how a changed service takes over"
    )
    keep: bool = Field(True, description="false: an intermediate, dropped once its consumers are done")
    out: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="a folder where the artifact also appears; left alone under --smoke",
    )
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="a fixed port, refused where another holds it; left out, one is leased and kept",
    )
    host: str = Field(
        "127.0.0.1", max_length=64, description="address to listen on; wider than loopback needs an api key"
    )
    expect: tuple[str, ...] = Field((), max_length=64, description="a gate: comparisons that must hold")
    trust_remote_code: bool = Field(False, description="run code that came with a model, without network")
    allow_pickle: bool = Field(False, description="read pickled weights, without network")


class Recipe(Strict):
    """A recipe."""

    version: Literal[1] = Field(1, description="the version of the recipe language")
    name: Name = Field(description="one running copy per name")
    models: dict[Name, Source] = Field(default_factory=dict, description="named models")
    datasets: dict[Name, Source] = Field(default_factory=dict, description="named datasets")
    steps: dict[Name, Step] = Field(min_length=1, max_length=5000, description="the steps")
