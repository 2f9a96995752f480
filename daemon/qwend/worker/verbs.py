"""What the planner worker can be asked, one method a verb. Remembers what it read and compiled last, by content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import msgspec

from qwend.core.compiler import compile_recipe
from qwend.core.loader import Loaded, load
from qwend.core.schema import recipe_schema
from qwend.core.selection import Selection, select
from qwend.core.sourcing import Sought, sought
from qwend.core.terms import Terms
from qwend.errors import QwendError, UsageError
from qwend.model.image import ImageSpec, settled_images
from qwend.model.plan import Compiled
from qwend.plugin.protocols import Engine, Source
from qwend.plugin.testing import check_plugin
from qwend.worker.catalog import Catalogue
from qwend.worker.stamps import stamp_all, tree, unchanged
from qwend.worker.stand_ins import Behind, behind
from qwend.worker.wire import (
    Candidate,
    CompileReply,
    CompileRequest,
    EventBatch,
    LoadReply,
    LoadRequest,
    RecipeRequest,
    Stamp,
    Wanted,
    digest,
    pack,
)

_REMEMBERED = 4
T = TypeVar("T")


class Verbs:
    """Answers with JSON. Raises QwendError."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._engines = cast(Mapping[str, Engine], catalogue.engines)
        self._sources = cast(Mapping[str, Source], catalogue.sources)
        self._recipes: OrderedDict[str, Loaded] = OrderedDict()
        self._compiled: OrderedDict[str, tuple[tuple[Stamp, ...], Compiled]] = OrderedDict()
        self._verbs: dict[str, Callable[[bytes], Any]] = {
            "load": self.load,
            "compile": self.compile,
            "plugins": lambda _: catalogue.describe(),
            "schema": lambda _: recipe_schema(catalogue.infos.values()),
            "event": self.event,
            "check": self.check,
        }

    def answer(self, verb: str, payload: bytes) -> msgspec.Raw:
        """The JSON that answers a call."""
        if verb not in self._verbs:
            raise QwendError(f"the planner worker does not know {verb!r:.80}", code="worker")
        return msgspec.Raw(msgspec.json.encode(self._verbs[verb](payload)))

    def load(self, payload: bytes) -> LoadReply:
        """The recipe's name, and how each reference that the asked-for steps need is pinned."""
        request = msgspec.json.decode(payload, type=LoadRequest)
        loaded, selection, sources = self._selected(request)
        errors: list[QwendError] = []
        wanted = tuple(self._wanted(source, request, errors) for source in sources)
        real = self._behind(request, loaded, selection)
        errors += real.errors
        if errors:
            raise _all(errors)
        return LoadReply(
            recipe=loaded.recipe.name,
            sources=wanted,
            warnings=self._left_out(),
            stamps=_stamps(
                dict.fromkeys([*(path for source in wanted for path in _read_from(source)), *real.files])
            ),
        )

    def compile(self, payload: bytes) -> CompileReply:
        """The compiled steps, unless the daemon has them already."""
        request = msgspec.json.decode(payload, type=CompileRequest)
        key = digest(request.load, request.pins)
        known = self._compiled.get(key)
        if known is not None and unchanged(known[0]):
            stamps, compiled = known
        else:
            compiled, files = self._compile(request)
            folders = {s.image.folder for s in compiled.steps if isinstance(s.image, ImageSpec)}
            stamps = _stamps(sorted({*folders, *files}))
            _remember(self._compiled, key, (stamps, compiled))
        if request.have == compiled.digest:
            return CompileReply(compiled.digest, stamps=stamps)
        packed, contents = pack(compiled)
        return CompileReply(compiled.digest, packed, contents, stamps)

    def event(self, payload: bytes) -> dict[str, int]:
        """Tells observers; what they raise was logged."""
        batch = msgspec.json.decode(payload, type=EventBatch)
        return {"failures": sum(len(self._catalogue.notify(event)) for event in batch.events)}

    def check(self, payload: bytes) -> list[dict[str, Any]]:
        """What the testing kit finds wrong with one plugin."""
        name = msgspec.json.decode(payload, type=dict[str, str]).get("plugin", "")
        plugin = next((plugin for plugin in self._catalogue.plugins if plugin.name == name), None)
        if plugin is None:
            known = ", ".join(sorted(plugin.name for plugin in self._catalogue.plugins))
            raise UsageError(
                f"no plugin is called {name!r:.80}", code="unknown-plugin", hint=f"there is {known}"
            )
        if plugin.problem is not None:
            return [{"engine": "", "key": "", "level": "error", "message": plugin.problem, "hint": None}]
        engines = [self._engines[engine] for engine in plugin.engines]
        sources = [self._sources[scheme] for scheme in plugin.sources]
        return [
            {"engine": subject, **msgspec.to_builtins(finding)}
            for subject, finding in check_plugin(engines, sources)
        ]

    def _compile(self, request: CompileRequest) -> tuple[Compiled, tuple[str, ...]]:
        """The compiled steps, and the files that they depend on."""
        loaded, selection, sources = self._selected(request.load)
        asked = request.load.recipe
        terms = Terms(
            host=request.load.host,
            runtimes=request.load.runtimes,
            runtime=asked.runtime,
            device=asked.device,
            setting=request.load.runtime,
            smoke=asked.smoke,
            source=asked.files[-1].path,
        )
        real = self._behind(request.load, loaded, selection)
        with settled_images():
            compiled = compile_recipe(
                loaded, selection, sources, request.pins, self._engines, self._sources, terms, real.types
            )
        warnings = (*self._left_out(), *compiled.warnings, *real.missing)
        return msgspec.structs.replace(compiled, warnings=warnings), real.files

    def _behind(self, request: LoadRequest, loaded: Loaded, selection: Selection) -> Behind:
        """What is known of the real sources where tiny models stand in for them."""
        if not request.recipe.smoke:
            return Behind({}, (), (), ())

        def candidate(source: Sought, index: int, reference: str) -> Candidate:
            try:
                return self._candidate(source, index, reference, request)
            except QwendError as error:
                raise _placed(error, source, index) from None

        return behind(sought(loaded, selection, self._catalogue.infos, False), candidate)

    def _selected(self, request: LoadRequest) -> tuple[Loaded, Selection, tuple[Sought, ...]]:
        asked = request.recipe
        loaded = self._recipe(asked)
        selection = select(
            loaded,
            self._engines,
            request.host,
            profiles=asked.profiles,
            only=asked.steps,
            device=asked.device,
        )
        return loaded, selection, sought(loaded, selection, self._catalogue.infos, asked.smoke)

    def _recipe(self, asked: RecipeRequest) -> Loaded:
        key = digest(asked.files, asked.set, asked.env, asked.directory)
        if key in self._recipes:
            self._recipes.move_to_end(key)
            return self._recipes[key]
        try:
            loaded = load(
                asked.files,
                engines=self._catalogue.infos,
                sets=asked.set,
                env=asked.env,
                directory=asked.directory,
                schemes=tuple(self._catalogue.sources),
            )
        except UsageError as error:
            raise self._explained(error) from None
        _remember(self._recipes, key, loaded)
        return loaded

    def _explained(self, error: UsageError) -> UsageError:
        """An engine or kind of reference may be unknown because its plugin was left out: then say so too."""
        told = error.details or (error,)
        unknown = any("unknown engine" in one.message or "no source is called" in one.message for one in told)
        if not unknown or not self._catalogue.problems:
            return error
        left_out = (UsageError(text, code="plugin-left-out") for text in self._left_out())
        return UsageError(error.message, code=error.code, details=(*told, *left_out))

    def _left_out(self) -> tuple[str, ...]:
        return tuple(f"plugin {name} is left out: {why}" for name, why in self._catalogue.problems.items())

    def _wanted(self, source: Sought, request: LoadRequest, errors: list[QwendError]) -> Wanted:
        candidates = []
        for index, reference in enumerate(source.references):
            try:
                candidates.append(self._candidate(source, index, reference, request))
            except QwendError as error:
                candidates.append(Candidate(reference, error=_placed(error, source, index).to_dict()))
        if all(item.error is not None for item in candidates):
            errors += [QwendError.from_dict(item.error) for item in candidates if item.error is not None]
        return Wanted(source.name, source.kind, tuple(candidates), source.options, source.where[0])

    def _candidate(self, source: Sought, index: int, reference: str, request: LoadRequest) -> Candidate:
        provider = self._catalogue.sources.get(reference.partition(":")[0])
        if provider is None:
            raise UsageError(
                f"no plugin resolves {reference.partition(':')[0]}: references", code="unknown-source"
            )
        wrong = [finding for finding in provider.check(reference) if finding.level == "error"]
        if wrong:
            raise UsageError(wrong[0].message, code="bad-reference", hint=wrong[0].hint)
        options = {**source.options, "fallback": index > 0}
        return Candidate(reference, provider.resolve(reference, options, request.host))


def _placed(error: QwendError, source: Sought, index: int) -> QwendError:
    if error.where is not None or error.details:
        return error
    section = "models" if source.kind == "model" else "datasets"
    kind = type(error) if type(error).__init__ is QwendError.__init__ else QwendError
    message = f"{section}.{source.name}: {error.message}"
    return kind(message, code=error.code, hint=error.hint, where=source.where[index])


def _all(errors: list[QwendError]) -> QwendError:
    if len(errors) == 1:
        return errors[0]
    kind = UsageError if any(isinstance(error, UsageError) for error in errors) else QwendError
    return kind(f"{len(errors)} references cannot be used", code="bad-recipe", details=tuple(errors))


def _read_from(source: Wanted) -> Iterable[str]:
    """What lies on this machine and a source's resolutions depend on: files, and the folders of images."""
    for resolution in (item.resolution for item in source.candidates if item.resolution is not None):
        if resolution.local is not None:
            yield resolution.local
        if resolution.question is not None and isinstance(resolution.question.image, ImageSpec):
            yield resolution.question.image.folder


def _stamps(roots: Iterable[str]) -> tuple[Stamp, ...]:
    """Of the files below `roots`. Where there are too many to watch, a stamp that never holds."""
    paths: list[str] = []
    for root in roots:
        below = tree(root)
        if below is None:
            return (Stamp(root, -2, -2),)
        paths += below
    return stamp_all(paths)


def _remember(memory: OrderedDict[str, T], key: str, value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
