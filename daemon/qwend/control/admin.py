"""What `control` asks of the rooms beyond the reconciler's effects: listing, checking, clearing up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from qwend.api.control import Json
from qwend.model.artifact import Artifact
from qwend.model.event import Event


class StoreAdmin(Protocol):
    """The artifact store as its keeper sees it."""

    def known(self, digest: str | None) -> Artifact | None:
        """An artifact by digest from memory, without looking at the disk."""
        ...

    async def artifacts(self) -> list[Artifact]:
        """All of them, newest first."""
        ...

    async def lookup(self, name: str) -> Artifact:
        """By a prefix of its digest or fingerprint. Raises UsageError for none or several."""
        ...

    def verify(self, digest: str | None) -> AsyncIterator[Json]:
        """Progress, then an `end` with what is bad."""
        ...

    async def prune(self, roots: Iterable[str], dry_run: bool) -> Json:
        """Removes what is not among the roots (fingerprints) nor needed by them."""
        ...

    async def export(self, artifact: Artifact, out: str) -> str:
        """Puts it into a folder; returns the folder's path."""
        ...


class ImageAdmin(Protocol):
    """Realised images, in every realisation."""

    async def keys(self) -> set[tuple[str, str]]: ...

    async def rows(self) -> list[Json]: ...

    def build(
        self, names: tuple[str, ...], flavour: str | None, runtime: str | None
    ) -> AsyncIterator[Json]: ...

    def verify(self, names: tuple[str, ...]) -> AsyncIterator[Json]: ...

    async def prune(self, used: set[str], dry_run: bool) -> Json:
        """Removes realised images whose spec digest is not in use."""
        ...


class EventLog(Protocol):
    def events(self, after: int, recipe: str | None) -> Iterable[Event]:
        """Events behind `after`, oldest first."""
        ...


class Ports(Protocol):
    def describe(self) -> Json:
        """Leases and the range."""
        ...


class PluginAdmin(Protocol):
    """The worker, as far as plugins are concerned."""

    async def plugins(self) -> list[Json]: ...

    async def check(self, plugin: str) -> list[Json]: ...

    async def schema(self) -> Json: ...
