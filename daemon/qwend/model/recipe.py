"""What the user wrote: the recipe language, version 1, as pydantic models.

Their JSON Schema is what `qwend schema` prints, and `recipes/README.md` is held to it by a test.
Only the planner worker imports this module; the daemon sees compiled plans.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
EngineName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*/[a-z][a-z0-9-]*$", max_length=128)]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def seconds(value: object) -> object:
    """`90`, `1m30s`, `15m`, `250ms` in seconds (float)."""
    if isinstance(value, str):
        parts = _DURATION.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise ValueError(f'"{value}" is no duration; write it as 30s, 5m, 1h30m')
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return value


def size(value: object) -> object:
    """`8GiB`, `512M`, `1.5g` in bytes (int); like docker, `g` and `GiB` both mean 1024**3."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(f'"{value}" is no size; write it as 512M, 8GiB')
        return int(float(match[1]) * 1024 ** _POWER[match[2].lower()])
    return value


Duration = Annotated[float, Field(ge=0), BeforeValidator(seconds, json_schema_input_type=str | float)]
Size = Annotated[int, Field(gt=0), BeforeValidator(size, json_schema_input_type=str | int)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Restart(Strict):
    """When a service is started again after it ended."""

    policy: Literal["no", "on-failure", "always"] = Field("on-failure", description="when to start it again")
    max: int | None = Field(5, ge=0, description="starts in a row before the service is failed; null: no limit")
    backoff: Duration = Field(1.0, description="wait before the first restart; doubles each time")
    cap: Duration = Field(60.0, description="the longest wait")
    reset: Duration = Field(300.0, description="so much health begins the count anew")


class Health(Strict):
    """How a service is watched; what is left out is the engine's own choice."""

    interval: Duration | None = Field(None, description="time between two liveness probes")
    deadline: Duration | None = Field(None, description="bound on the start, instead of the one by size of weights")


class When(Strict):
    """A condition on the machine; a step whose condition fails is left out, with what depends on it."""

    device: Literal["cpu", "cuda", "apple"] | None = Field(None, description="the device that was chosen")
    system: Literal["linux", "darwin"] | None = Field(None, description="the operating system")


class SourceSpec(Strict):
    """A model or dataset with more to say than a reference."""

    from_: str | tuple[str, ...] = Field(alias="from", description="a reference, or mirrors tried in order")
    smoke: str | None = Field(None, description="what stands for it under --smoke: qwen2, qwen3, or a file: reference")
    column: str | None = Field(None, description="the column with the text")
    sample: int | None = Field(None, ge=1, description="take so many rows")
    seed: int | None = Field(None, ge=0, description="seed of the sample")
    type: str | None = Field(None, description="the artifact type, where it cannot be told from the files")
    allow_pickle: bool = Field(False, description="accept pickled weights (they can run code)")


SourceValue = str | tuple[str, ...] | SourceSpec
Device = Literal["auto", "cpu", "cuda", "apple"]
RuntimeName = Literal["auto", "docker", "native", "kubernetes"]


class Step(Strict):
    """One node of the recipe."""

    uses: EngineName = Field(description="the engine, as plugin/engine")
    from_: Name | tuple[str, ...] | str | None = Field(None, alias="from", description="the main input(s): a model, a dataset or a step")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="the engine's own parameters")
    matrix: dict[str, tuple[Any, ...]] | None = Field(None, description="one step per value of a parameter")
    needs: tuple[str, ...] = Field((), description="steps that must be done first, without their data")
    when: When | None = Field(None, description="leave the step out unless this holds")
    profiles: tuple[Name, ...] = Field((), description="only with one of these profiles")
    runtime: RuntimeName = Field("auto", description="where it runs")
    device: Device = Field("auto", description="what it runs on; cuda never falls back to cpu")
    gpus: int | tuple[int | str, ...] | None = Field(None, description="how many cards, or which (PCI index or UUID)")
    gpu_share: float = Field(1.0, gt=0, le=1, description="the share of each card that it takes")
    memory: Size | None = Field(None, description="host memory that it may take")
    cpus: float | None = Field(None, gt=0, description="CPU cores that it may take")
    env: dict[str, str] = Field(default_factory=dict, description="environment variables (in the fingerprint)")
    secrets: tuple[str, ...] = Field((), description="names of secrets it may read as files")
    extra_args: tuple[str, ...] = Field((), description="more arguments for the tool, as a list (in the fingerprint)")
    network: Literal["none", "egress"] | None = Field(None, description="none, or egress for a job that must reach out")
    health: Health | None = Field(None, description="how a service is watched")
    stop_grace: Duration = Field(10.0, description="time between SIGTERM and SIGKILL")
    timeout: Duration | None = Field(None, description="bound on a job")
    retries: int = Field(0, ge=0, le=100, description="further attempts of a failed job")
    restart: Restart | Literal["no", "on-failure", "always"] | None = Field(None, description="restart policy of a service")
    idle: Duration | None = Field(None, description="unload a service after so long without a request")
    replace: Literal["rolling", "stop-first"] | None = Field(None, description="how a changed service takes over")
    keep: bool = Field(True, description="false: an intermediate, dropped once its consumers are done")
    out: str | None = Field(None, description="a folder where the artifact also appears")
    port: int | None = Field(None, ge=1, le=65535, description="a fixed port; left out, one is leased and kept")
    host: str = Field("127.0.0.1", description="address to listen on; wider than loopback needs an api key")
    expect: tuple[str, ...] = Field((), description="a gate: comparisons that must hold")
    trust_remote_code: bool = Field(False, description="run code that came with a model, without network")
    allow_pickle: bool = Field(False, description="read pickled weights, without network")


class Recipe(Strict):
    """A recipe."""

    version: Literal[1] = Field(1, description="the version of the recipe language")
    name: Name = Field(description="one running copy per name")
    models: dict[Name, SourceValue] = Field(default_factory=dict, description="named models")
    datasets: dict[Name, SourceValue] = Field(default_factory=dict, description="named datasets")
    steps: dict[Name, Step] = Field(min_length=1, description="the steps")
