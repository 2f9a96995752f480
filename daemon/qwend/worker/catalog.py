"""Finds the plugins that are installed, registers each by itself, and leaves the broken ones out by name.

Runs in the planner worker only. A plugin is all or nothing: one that fails to import, raises in a hook, calls
`sys.exit`, has a hook that does not exist, or brings an engine or a scheme whose name is taken is left out.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pluggy

from qwend.core.engine_info import EngineInfo
from qwend.errors import QwendError
from qwend.model.event import Event
from qwend.plugin.hooks import GROUP, PROJECT, Hooks
from qwend.worker.guarded import Crumb, Guard, GuardedEngine, GuardedSource, PluginFailed, no_crumb
from qwend.worker.stamps import LIMIT, tree

log = logging.getLogger("qwend.plugins")

PLUGIN_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


class Registered(msgspec.Struct, frozen=True):
    """One entry point and what came of it. `problem` says why it was left out (None: it is in)."""

    name: str
    distribution: str
    version: str
    engines: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def label(self) -> str:
        return f"{self.distribution} {self.version}".strip()


class Catalogue:
    """The engines and sources that can be used, by name."""

    def __init__(self) -> None:
        self.plugins: list[Registered] = []
        self.engines: dict[str, GuardedEngine] = {}
        self.sources: dict[str, GuardedSource] = {}
        self.folders: list[str] = []
        """Files and folders of the plugins' own code, for `watch`."""
        self._managers: dict[str, tuple[Guard, pluggy.PluginManager]] = {}

    @property
    def infos(self) -> Mapping[str, EngineInfo]:
        """What the recipe loader must know of the engines."""
        return {name: EngineInfo.of(engine) for name, engine in self.engines.items()}

    @property
    def observers(self) -> bool:
        """Whether any plugin wants to be told of events."""
        return any(manager.hook.qwend_event.get_hookimpls() for _, manager in self._managers.values())

    @property
    def problems(self) -> dict[str, str]:
        """Why plugins were left out, by name."""
        return {plugin.name: plugin.problem for plugin in self.plugins if plugin.problem is not None}

    def add(self, name: str, module: ModuleType, distribution: str, version: str, crumb: Crumb) -> None:
        """Registers one plugin, whole or not at all. Raises QwendError, with the reason."""
        guard = Guard(name, crumb)
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(Hooks)
        label = f"{distribution} {version}".strip()
        guard.call("registration", lambda: _register(manager, module, name))
        engines = [GuardedEngine(e, guard, label) for e in _flat(guard, "qwend_engines", manager)]
        sources = [GuardedSource(s, guard, label) for s in _flat(guard, "qwend_sources", manager)]
        self._refuse_taken(name, [e.name for e in engines], "engine", self.engines)
        self._refuse_taken(name, [s.scheme for s in sources], "source", self.sources)
        self.engines.update({engine.name: engine for engine in engines})
        self.sources.update({source.scheme: source for source in sources})
        self._managers[name] = (guard, manager)
        self.plugins.append(
            Registered(
                name,
                distribution,
                version,
                tuple(engine.name for engine in engines),
                tuple(source.scheme for source in sources),
            )
        )

    def notify(self, event: Event) -> list[PluginFailed]:
        """Tells every observer of an event; what they raise is logged and given back, never raised."""
        failures = []
        for guard, manager in self._managers.values():
            try:
                guard.call(f"qwend_event {event.kind}", lambda m=manager: m.hook.qwend_event(event=event))
            except PluginFailed as failure:
                failures.append(failure)
            except QwendError as error:
                failures.append(guard.failed(f"qwend_event {event.kind}", str(error)))
        return failures

    def describe(self) -> list[dict[str, Any]]:
        """As the API tells of plugins."""
        return [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "engines": [_engine_row(self.engines[name]) for name in plugin.engines],
                "sources": [
                    {"scheme": scheme, "summary": self.sources[scheme].summary} for scheme in plugin.sources
                ],
                "problem": plugin.problem,
            }
            for plugin in self.plugins
        ]

    def watch(self) -> list[str]:
        """Paths whose change means that another set of plugins, or other code of one, would be imported."""
        found = [entry for entry in dict.fromkeys(sys.path) if entry and Path(entry).is_dir()]
        for folder in self.folders:
            below = tree(folder)
            found += below if below is not None else [folder]
        return list(dict.fromkeys(found))[: 4 * LIMIT]

    def _refuse_taken(
        self, plugin: str, names: list[str], what: str, taken: Mapping[str, GuardedEngine | GuardedSource]
    ) -> None:
        for index, name in enumerate(names):
            if name in names[:index]:
                raise PluginFailed(f"plugin {plugin} brings {what} {name} twice", plugin=plugin)
            if name in taken:
                other = taken[name].plugin
                raise PluginFailed(
                    f"plugin {plugin} brings {what} {name}, which plugin {other} has already",
                    plugin=plugin,
                    hint=f"uninstall {plugin} or {other}",
                )


def load_plugins(
    crumb: Crumb = no_crumb,
    without: Mapping[str, str] | None = None,
    entry_points: Iterable[metadata.EntryPoint] | None = None,
) -> Catalogue:
    """Every installed plugin, in the order of their names; `without` names those to leave out, and why."""
    catalogue = Catalogue()
    quarantined = without or {}
    for point in sorted(_entry_points(entry_points), key=lambda p: (p.name, _distribution(p)[0])):
        distribution, version = _distribution(point)
        problem = quarantined.get(point.name) or _refused(point, catalogue.plugins)
        if problem is None:
            problem = _add(catalogue, point, distribution, version, crumb)
        elif point.name in quarantined:
            catalogue.folders += _located(point)
        if problem is not None:
            catalogue.plugins.append(Registered(point.name, distribution, version, problem=problem))
            log.warning("plugin %s (%s %s) is left out: %s", point.name, distribution, version, problem)
    return catalogue


def _add(
    catalogue: Catalogue, point: metadata.EntryPoint, distribution: str, version: str, crumb: Crumb
) -> str | None:
    guard = Guard(point.name, crumb)
    try:
        module = guard.call("import", point.load)
        catalogue.folders += [*_home(module), *_beside(module)]
        catalogue.add(point.name, module, distribution, version, crumb)
    except QwendError as error:
        catalogue.folders += _located(point)
        return (
            f"{error.message} ({error.hint})"
            if error.hint and error.code != "plugin-failed"
            else error.message
        )
    return None


def _register(manager: pluggy.PluginManager, module: ModuleType, name: str) -> None:
    manager.register(module, name)
    manager.check_pending()


def _flat(guard: Guard, hook: str, manager: pluggy.PluginManager) -> list[Any]:
    """What a hook of one plugin gives; a generator is run here, under the guard."""
    results: list[Any] = guard.call(
        hook, lambda: [item for given in getattr(manager.hook, hook)() for item in (given or ())]
    )
    return results


def _refused(point: metadata.EntryPoint, before: Collection[Registered]) -> str | None:
    if not PLUGIN_NAME.fullmatch(point.name):
        return f"{point.name!r:.80} is no plugin name: lower-case letters, digits, - and _"
    for other in before:
        if other.name == point.name:
            mine = _distribution(point)[0]
            return f"the plugin name {point.name} of {mine} is taken by {other.distribution}: uninstall one of them"
    return None


def _entry_points(given: Iterable[metadata.EntryPoint] | None) -> Iterable[metadata.EntryPoint]:
    return metadata.entry_points(group=GROUP) if given is None else given


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    dist = point.dist
    return (dist.name, dist.version) if dist is not None else ("", "")


def _home(module: ModuleType) -> list[str]:
    """Where a plugin's code lies: the folder of a package, the file of a module."""
    paths = [str(path) for path in getattr(module, "__path__", ())]
    return paths or [str(path) for path in [getattr(module, "__file__", None)] if path]


def _beside(module: ModuleType) -> list[str]:
    """The same for what lies beside a plugin in a package of several, as far as it was imported: shared code."""
    package = module.__name__.rpartition(".")[0]
    if not package:
        return []
    below = [name for name in list(sys.modules) if name.rpartition(".")[0] == package]
    return [path for name in below for path in _home(sys.modules[name])]


def _located(point: metadata.EntryPoint) -> list[str]:
    """The same without importing it."""
    module = sys.modules.get(point.module)
    if module is not None:
        return _home(module)
    try:
        spec = importlib.machinery.PathFinder.find_spec(point.module.partition(".")[0])
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    found = list(spec.submodule_search_locations or ())
    return found or ([spec.origin] if spec.origin else [])


def _engine_row(engine: GuardedEngine) -> Iterator[Any] | dict[str, Any]:
    return {
        "name": engine.name,
        "kind": engine.kind,
        "summary": engine.summary,
        "accepts": list(engine.accepts),
        "many": engine.many,
        "flavours": list(engine.flavours),
        "revision": engine.revision,
        "params_schema": engine.schema,
    }
