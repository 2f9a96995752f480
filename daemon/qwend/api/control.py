"""What the routes may ask of the daemon. The composition root implements it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol

import msgspec

from qwend.model.host import Host

Json = dict[str, Any]


class FileText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A recipe file as the client read it. `path` is absolute, or `-`."""

    path: str
    text: str


class RecipeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A recipe with everything that the client's command line says of it."""

    files: tuple[FileText, ...]
    directory: str
    set: tuple[str, ...] = ()
    env: dict[str, str] = {}
    profiles: tuple[str, ...] = ()
    smoke: bool = False
    runtime: str | None = None
    device: str | None = None
    steps: tuple[str, ...] = ()
    force: tuple[str, ...] = ()
    locked: bool = False
    kept: bool = False
    secrets: dict[str, str] = {}
    upgrade: tuple[str, ...] | None = None
    host: Host | None = None
    """Plan for this machine instead of the one here (`qwend doctor --json` prints its `host`)."""


class AttachRequest(RecipeRequest, frozen=True, forbid_unknown_fields=True):
    """An interactive step, named by `steps`, for the terminal of a client: whether its input is one, of which kind
    (`TERM`), and the client's process."""

    tty: bool = False
    term: str = "dumb"
    client: int = 0


class ExportRequest(RecipeRequest, frozen=True, forbid_unknown_fields=True):
    """A recipe to be run without qwend: as a shell script, or its services as a file for Docker Compose."""

    form: Literal["shell", "compose"] = "shell"


class Control(Protocol):
    """Streams yield JSON objects; failures are QwendErrors."""

    def version(self) -> Json: ...

    def plan(self, request: RecipeRequest) -> AsyncIterator[Json]: ...

    def up(self, request: RecipeRequest) -> AsyncIterator[Json]: ...

    def attach(self, request: AttachRequest) -> AsyncIterator[Json]: ...

    def lock(self, request: RecipeRequest) -> AsyncIterator[Json]: ...

    def export_recipe(self, request: ExportRequest) -> AsyncIterator[Json]: ...

    async def release(self, run: str, kill: bool) -> Json: ...

    def follow(self, run: str) -> AsyncIterator[Json]: ...

    def steps(self, recipe: str | None) -> list[Json]: ...

    async def inspect(self, key: str) -> Json: ...

    def act(self, key: str, verb: str) -> AsyncIterator[Json]: ...

    async def report(self, recipe: str) -> Json: ...

    def recipes(self) -> list[Json]: ...

    def down(self, recipe: str | None) -> AsyncIterator[Json]: ...

    def logs(self, key: str, follow: bool, tail: int | None, since: float | None) -> AsyncIterator[bytes]: ...

    def events(self, follow: bool, after: int, recipe: str | None) -> AsyncIterator[Json]: ...

    async def artifacts(self) -> list[Json]: ...

    async def artifact(self, name: str) -> Json: ...

    def verify_store(self, digest: str | None) -> AsyncIterator[Json]: ...

    async def prune_store(self, dry_run: bool, everything: bool) -> Json: ...

    async def export(self, name: str, out: str) -> Json: ...

    async def images(self) -> list[Json]: ...

    def build_images(
        self, names: tuple[str, ...], flavour: str | None, runtime: str | None
    ) -> AsyncIterator[Json]: ...

    def verify_images(self, names: tuple[str, ...]) -> AsyncIterator[Json]: ...

    async def prune_images(self, dry_run: bool) -> Json: ...

    def ports(self) -> Json: ...

    async def plugins(self, check: str | None) -> Json: ...

    async def schema(self) -> Json: ...

    async def doctor(self) -> Json: ...

    async def fit(
        self, reference: str, context: int | None, form: str | None, directory: str, host: Host | None
    ) -> Json: ...

    async def stop(self, services: bool) -> Json: ...
