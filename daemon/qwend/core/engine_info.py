"""What the loader must know of an engine; the worker fills it from the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from qwend.plugin.protocols import Params


class Described(Protocol):
    """The part of `qwend.plugin.Engine` that describes it."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Literal["job", "service", "interactive"]: ...

    @property
    def params(self) -> type[Params]: ...

    @property
    def accepts(self) -> tuple[str, ...]: ...

    @property
    def many(self) -> bool: ...

    @property
    def flavours(self) -> tuple[str, ...]: ...

    @property
    def summary(self) -> str: ...


@dataclass(frozen=True)
class EngineInfo:
    """An engine by name: `accepts` are the artifact types of `from:` (empty: it takes none), `many` says that
    it takes a list."""

    name: str
    kind: Literal["job", "service", "interactive"]
    params: type[Params]
    accepts: tuple[str, ...] = ()
    many: bool = False
    flavours: tuple[str, ...] = ("cpu",)
    summary: str = ""

    @staticmethod
    def of(engine: Described) -> EngineInfo:
        return EngineInfo(
            engine.name,
            engine.kind,
            engine.params,
            engine.accepts,
            engine.many,
            engine.flavours,
            engine.summary,
        )

    @cached_property
    def references(self) -> dict[str, tuple[str, ...]]:
        """The parameters that name other steps, with the artifact types that they take."""
        found = {}
        for name, info in self.params.model_fields.items():
            extra = info.json_schema_extra
            if isinstance(extra, dict) and "x-qwend-reference" in extra:
                found[info.alias or name] = tuple(str(kind) for kind in extra["x-qwend-reference"])  # type: ignore[union-attr]
        return found

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the parameters."""
        return self.params.model_json_schema(by_alias=True, mode="validation")
