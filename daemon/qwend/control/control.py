"""`api.control.Control`, implemented: one short method per route, over the rooms below."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from qwend import __version__
from qwend.api.control import AttachRequest, ExportRequest, Json, RecipeRequest
from qwend.control import fitting, reporting
from qwend.control.acting import act
from qwend.control.admin import EventLog, ImageAdmin, PluginAdmin, Ports, StoreAdmin
from qwend.control.attaching import Attaching
from qwend.control.clearing import clear_scratch
from qwend.control.diagnosis import Diagnosis
from qwend.control.exporting import export
from qwend.control.planning import Planning
from qwend.control.running import Running
from qwend.control.tailing import tail
from qwend.control.views import ps_row, step_view
from qwend.errors import UsageError
from qwend.model.artifact import Artifact
from qwend.model.event import Event
from qwend.model.host import Host
from qwend.model.service import Step
from qwend.reconciler.reconciler import Reconciler

_FINISHED = {"succeeded", "cached"}


@dataclass
class Rooms:
    """What the daemon consists of, as far as it is asked about."""

    reconciler: Reconciler
    planning: Planning
    store: StoreAdmin
    images: ImageAdmin
    events: EventLog
    ports: Ports
    plugins: PluginAdmin
    diagnosis: Diagnosis
    stopping: asyncio.Event
    config: str | None = None
    """The qwend.toml that was read at the start; None: there was none."""


class DaemonControl:
    """What the API asks. Streams yield JSON objects."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._reconciler = rooms.reconciler
        self._world = rooms.reconciler.world
        self._started = self._world.clock.wall()
        self.running = Running(rooms.planning, rooms.reconciler, self.steps)
        self._attaching = Attaching(self.running, rooms.reconciler)

    def version(self) -> Json:
        return {
            "version": __version__,
            "api": 1,
            "pid": os.getpid(),
            "instance": self._world.instance,
            "started": self._started,
            "config": self._rooms.config,
        }

    def plan(self, request: RecipeRequest) -> AsyncIterator[Json]:
        return self.running.plan(request)

    def up(self, request: RecipeRequest) -> AsyncIterator[Json]:
        return self.running.up(request)

    def attach(self, request: AttachRequest) -> AsyncIterator[Json]:
        return self._attaching.attach(request)

    def lock(self, request: RecipeRequest) -> AsyncIterator[Json]:
        return self.running.lock(request)

    def export_recipe(self, request: ExportRequest) -> AsyncIterator[Json]:
        return export(self.running, self._reconciler, request)

    async def release(self, run: str, kill: bool) -> Json:
        return await self.running.release(run, kill)

    def follow(self, run: str) -> AsyncIterator[Json]:
        return self.running.follow(run)

    def act(self, key: str, verb: str) -> AsyncIterator[Json]:
        return act(self._reconciler, self.steps, key, verb)

    def down(self, recipe: str | None) -> AsyncIterator[Json]:
        return self.running.down(recipe)

    def steps(self, recipe: str | None) -> list[Json]:
        """Rows of `ps`, in the recipe's order."""
        now = self._world.clock.wall()
        rows = self._reconciler.rows(recipe)
        order = self._order({row.recipe for row in rows})
        rows.sort(key=lambda row: (row.recipe, order.get(row.key, 1 << 30), row.step))
        return [ps_row(row, self._rooms.store.known(row.artifact), row.image, now) for row in rows]

    async def inspect(self, key: str) -> Json:
        """The row, the compiled step and the artifact of a step."""
        recipe, _, name = key.partition("/")
        rows = [row for row in self.steps(recipe) if row["step"] == name]
        compiled = self._reconciler.compiled(recipe)
        step = next((one for one in compiled.steps if one.name == name), None) if compiled else None
        if not rows and step is None:
            raise UsageError(f"there is no step {key}", code="no-such-step", hint="qwend ps lists them")
        artifact = await self._world.store.find(step.fingerprint) if step is not None else None
        return {
            "row": rows[0] if rows else None,
            "compiled": step_view(step) if step is not None else None,
            "artifact": msgspec.to_builtins(artifact) if artifact is not None else None,
        }

    async def report(self, recipe: str) -> Json:
        """What a report of the recipe is made of."""
        return await reporting.describe(self._reconciler, recipe, self.steps(recipe))

    def recipes(self) -> list[Json]:
        """Every recipe with how it is."""
        found = []
        for name, row in sorted(self._world.state.rows("recipe").items()):
            rows = self._reconciler.rows(name)
            found.append(
                {
                    "name": name,
                    "state": _summary(rows),
                    "steps": len(rows),
                    "directory": row["compiled"].get("directory", ""),
                    "source": row["compiled"].get("source", ""),
                    "run": row["run"],
                }
            )
        return found

    async def logs(
        self, key: str, follow: bool, tail_lines: int | None, since: float | None
    ) -> AsyncIterator[bytes]:
        """The step's log. Raises UsageError for a step that nobody knows."""
        box = self._reconciler.find(key)
        path = box.enactor.log_path()

        def alive() -> bool:
            return box.row.alive or box.row.state in {"waiting", "backoff", "pending"}

        async for piece in tail(path, follow, tail_lines, since, alive):
            yield piece

    async def events(self, follow: bool, after: int, recipe: str | None) -> AsyncIterator[Json]:
        async with self._world.hub.follow() as news:
            last = after
            for event in self._rooms.events.events(after, recipe):
                last = max(last, event.seq)
                yield _shown(event)
            while follow:
                item = await news.get()
                if isinstance(item, Event) and (recipe is None or item.subject.partition("/")[0] == recipe):
                    yield _shown(item)

    async def artifacts(self) -> list[Json]:
        return [_brief(artifact) for artifact in await self._rooms.store.artifacts()]

    async def artifact(self, name: str) -> Json:
        found = await self._rooms.store.lookup(name)
        return msgspec.to_builtins(found)  # type: ignore[no-any-return]

    def verify_store(self, digest: str | None) -> AsyncIterator[Json]:
        return self._rooms.store.verify(digest)

    async def prune_store(self, dry_run: bool, everything: bool) -> Json:
        """Removes what neither a live run, a recipe that is up, nor (unless all) a recipe's last plan needs, and what
        services that are stopped have put by."""
        roots = set()
        for name in self._world.state.rows("recipe"):
            compiled = self._reconciler.compiled(name)
            rows = {row.step: row for row in self._reconciler.rows(name)}
            live = any(row.alive or not row.settled for row in rows.values())
            if compiled is not None and (live or not everything):
                roots |= {step.fingerprint for step in self._reconciler.known(name)}
        answer = await self._rooms.store.prune(roots, dry_run)
        kept = await clear_scratch(self._world.home, self._reconciler.rows(), dry_run)
        return {**answer, "freed": answer["freed"] + kept}

    async def export(self, name: str, out: str) -> Json:
        artifact = await self._rooms.store.lookup(name)
        return {"out": await self._rooms.store.export(artifact, out), "digest": artifact.digest}

    async def images(self) -> list[Json]:
        return await self._rooms.images.rows()

    def build_images(
        self, names: tuple[str, ...], flavour: str | None, runtime: str | None
    ) -> AsyncIterator[Json]:
        return self._rooms.images.build(names, flavour, runtime)

    def verify_images(self, names: tuple[str, ...]) -> AsyncIterator[Json]:
        return self._rooms.images.verify(names)

    async def prune_images(self, dry_run: bool) -> Json:
        used = set()
        for name in self._world.state.rows("recipe"):
            used |= {step.image.digest for step in self._reconciler.known(name) if step.image}
        return await self._rooms.images.prune(used, dry_run)

    def ports(self) -> Json:
        return self._rooms.ports.describe()

    async def plugins(self, check: str | None) -> Json:
        if check is not None:
            return {"findings": await self._rooms.plugins.check(check)}
        return {"plugins": await self._rooms.plugins.plugins()}

    async def schema(self) -> Json:
        return await self._rooms.plugins.schema()

    async def doctor(self) -> Json:
        return await self._rooms.diagnosis.describe()

    async def fit(
        self, reference: str, context: int | None, form: str | None, directory: str, host: Host | None
    ) -> Json:
        rooms = self._rooms
        return await fitting.describe(
            rooms.planning, rooms.plugins, reference, context, form, directory, host
        )

    async def stop(self, services: bool) -> Json:
        """Ends the daemon once this answer is sent; services live on unless they are to stop too."""
        if services:
            names = {row.recipe for row in self._reconciler.rows()}
            await asyncio.gather(*(self._reconciler.down(name) for name in names))
        asyncio.get_running_loop().call_later(0.05, self._rooms.stopping.set)
        return {"stopping": True}

    def _order(self, recipes: set[str]) -> dict[str, int]:
        order: dict[str, int] = {}
        for name in recipes:
            compiled = self._reconciler.compiled(name)
            for number, step in enumerate(compiled.steps if compiled else ()):
                order[f"{name}/{step.name}"] = number
        return order


def _summary(rows: list[Step]) -> str:
    """One word for a recipe: that of its worst service, else of its jobs."""
    for state in ("failed", "unhealthy", "backoff", "starting", "running", "waiting", "stopping", "ready"):
        if any(row.state == state for row in rows):
            return state
    return "done" if rows and all(row.state in _FINISHED for row in rows) else "stopped"


def _shown(event: Event) -> Json:
    data: dict[str, Any] = msgspec.to_builtins(event)
    data.pop("row", None)
    return data


def _brief(artifact: Artifact) -> Json:
    data: dict[str, Any] = msgspec.to_builtins(artifact)
    data["files"] = len(artifact.files)
    data.pop("provenance", None)
    data["recipe"] = artifact.provenance.get("recipe")
    data["step"] = artifact.provenance.get("step")
    return data
