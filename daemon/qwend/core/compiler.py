"""From a loaded recipe, the pins of its sources and a host to compiled steps. Pure.

Each step is compiled after what it reads: edges, place, checks, product, image, launch, fingerprint. All that is
wrong is told at once; a step whose inputs could not be compiled says nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from qwend.core import figures, fingerprint, placement, rows
from qwend.core.binding import describe
from qwend.core.launching import finished, policy, resources, unenforced
from qwend.core.loader import Loaded, Variant
from qwend.core.mending import NOTHING, edge_problem, put_through
from qwend.core.placement import Refusal
from qwend.core.selection import Selection
from qwend.core.source_steps import fetched, referenced
from qwend.core.sourcing import Sought
from qwend.core.step_parts import all_of, ingredients, input_key, reached, reads
from qwend.core.terms import Terms
from qwend.errors import QwendError, UsageError
from qwend.model.artifact import Facts, Pin
from qwend.model.plan import Compiled, CompiledStep, Edge
from qwend.model.recipe import Step
from qwend.plugin.protocols import Engine, Given, Source, StepView
from qwend.plugin.samples import references


def compile_recipe(
    loaded: Loaded,
    selection: Selection,
    sought: Iterable[Sought],
    pins: Mapping[str, Pin],
    engines: Mapping[str, Engine],
    sources: Mapping[str, Source],
    terms: Terms,
    types: Mapping[str, str] | None = None,
) -> Compiled:
    """The selected steps. Raises one QwendError whose `details` are all that is wrong. `types` are those of the real
    sources, as far as they are known, where tiny models stand in for them: edges are held to these too."""
    if terms.runtime not in (None, "auto", *terms.runtimes):
        raise placement.absent(str(terms.runtime), terms.runtimes, terms.host).error()
    if terms.device not in (None, "auto"):
        uses = {loaded.recipe.steps[variant.step].uses for variant in selection.variants}
        refused = placement.refuse_device(str(terms.device), terms.host, (engines[n].flavours for n in uses))
        if refused is not None:
            raise refused
    compiler = _Compiler(loaded, pins, engines, sources, terms, types or {})
    for source in sought:
        compiler.attempt(source.name, partial(compiler.source, source))
        compiler.read_rows(source)
    for variant in selection.variants:
        if not compiler.lacks(variant):
            compiler.attempt(variant.name, partial(compiler.step, variant))
    compiler.check_gates()
    if compiler.errors:
        raise all_of(compiler.errors)
    compiled = Compiled(
        recipe=loaded.recipe.name,
        digest="",
        steps=tuple(compiler.steps.values()),
        directory=loaded.directory,
        source=terms.source,
        warnings=loaded.warnings,
        smoke=terms.smoke,
        left_out=selection.left_out,
    )
    return msgspec.structs.replace(compiled, digest=hashlib.sha256(msgspec.json.encode(compiled)).hexdigest())


class _Compiler:
    def __init__(
        self,
        loaded: Loaded,
        pins: Mapping[str, Pin],
        engines: Mapping[str, Engine],
        sources: Mapping[str, Source],
        terms: Terms,
        types: Mapping[str, str],
    ) -> None:
        self.steps: dict[str, CompiledStep] = {}
        self.errors: list[QwendError] = []
        self._given: dict[str, Given] = {}
        self._places: dict[str, str] = {}
        self._figures: dict[str, frozenset[str] | None] = {}
        self._loaded = loaded
        self._pins = pins
        self._engines = engines
        self._sources = sources
        self._terms = terms
        self._types = types

    def lacks(self, variant: Variant) -> bool:
        """Whether something that the step needs could not be compiled."""
        return any(name not in self.steps for name in [*reads(variant), *variant.needs])

    def attempt(self, name: str, work: Callable[[], CompiledStep]) -> None:
        """Compiles one step, or notes what is wrong with it."""
        before = len(self.errors)
        try:
            step = work()
        except Refusal as refusal:
            self.errors.append(refusal.error(f"steps.{name}", self._where(name, refusal.key)))
        except QwendError as error:
            self.errors.append(self._placed(name, error))
        except _Noted:
            pass
        else:
            if len(self.errors) == before:
                self.steps[name] = step

    def source(self, sought: Sought) -> CompiledStep:
        pin = self._pins.get(sought.name)
        if pin is None:
            raise QwendError(f"{sought.name} was not resolved", code="unresolved", where=sought.where[0])
        step = referenced(sought, pin)
        self._given[sought.name] = Given(sought.name, pin.type, pin.facts, pin=pin)
        return step if pin.local is not None else fetched(step, sought, pin, self._sources, self._terms)

    def read_rows(self, sought: Sought) -> None:
        """Lets a step of its own read a data set before its readers do, where one is needed."""
        source = self.steps.get(sought.name)
        params = rows.wanted(source.pin, sought.options) if source is not None and source.pin else None
        if source is None or params is None:
            return
        name = rows.inner(sought.name)
        self.steps.pop(sought.name)
        self.steps[name] = msgspec.structs.replace(source, name=name)
        self._given[name] = msgspec.structs.replace(self._given.pop(sought.name), name=name)
        self._places[sought.name] = self._places[name] = sought.where[0]
        self.attempt(sought.name, partial(self._rows, sought.name, params))

    def _rows(self, name: str, params: dict[str, Any]) -> CompiledStep:
        engine = self._engines.get(rows.ENGINE)
        if engine is None:
            hint = "install the plugin, or leave out column, sample and seed and give text as it is"
            raise UsageError(
                f"{name}: {rows.ENGINE}, which reads rows, is not installed",
                hint=hint,
                where=self._where(name),
            )
        said = engine.params.model_validate_json(json.dumps(params))
        variant = Variant(name, name, {}, said, inputs=(rows.inner(name),))
        return self.step(variant, Step.model_validate({"uses": rows.ENGINE}))

    def check_gates(self) -> None:
        """Notes the gates that compare what no step will report."""
        for name, step in self.steps.items():
            for index, text in enumerate(step.policy.expect):
                wrong = figures.unknown(text, name, self._figures)
                if wrong is not None:
                    place = self._where(name, f"expect.{index}")
                    self.errors.append(
                        UsageError(
                            f"steps.{name}.expect: {wrong[0]}", code="no-figure", hint=wrong[1], where=place
                        )
                    )

    def _where(self, name: str, key: str = "") -> str:
        """The place of a step, or of the data set whose rows it reads."""
        return self._places.get(name) or self._loaded.marks.step(name, key)

    def step(self, variant: Variant, said: Step | None = None) -> CompiledStep:
        step = said or self._loaded.recipe.steps[variant.step]
        engine, host = self._engines[step.uses], self._terms.host
        variant, mended = self._mended(variant, step, engine)
        if not self._edges_hold(variant, step, engine):
            raise _Noted
        flavour, why = placement.flavour(engine.name, tuple(engine.flavours), step, host, self._terms.device)
        count, named = placement.cards(step, flavour, host)
        runtime, where_why = self._terms.place(flavour, step.runtime, None)
        view = self._view(variant, step, flavour, runtime, count)
        image = engine.image(view, host)
        settled, settled_why = self._terms.place(flavour, step.runtime, image)
        if settled != runtime:
            runtime, where_why = settled, settled_why
            view = msgspec.structs.replace(view, runtime=runtime)
            image = engine.image(view, host)
        notices = (*mended, *self._findings(variant, engine, view))
        product = engine.product(view)
        told = getattr(engine, "metrics", None)
        names = told(view) if told is not None else None
        self._figures[variant.name] = None if names is None else frozenset(names)
        made = {
            one.name: one for one in [*view.inputs, *(one for many in view.given.values() for one in many)]
        }
        launch = engine.launch(view, host)
        below = reached(launch, made)
        launch = finished(launch, step, engine.name, {*made, *below})
        parts = ingredients(variant, step, engine, image, launch, self._fingerprints(variant))
        options = variant.params.model_dump(mode="json", by_alias=True)
        type_ = product.type if product is not None else NOTHING
        facts = product.facts if product is not None else Facts()
        self._given[variant.name] = Given(
            variant.name, type_, facts, engine.name, options, tuple(made.values())
        )
        weights = sum(one.facts.bytes or 0 for one in view.inputs)
        return CompiledStep(
            name=variant.name,
            engine=engine.name,
            kind=engine.kind,
            fingerprint=fingerprint.fingerprint(engine.kind, parts),
            ingredients=fingerprint.labels(parts),
            where=self._where(variant.name),
            image=image,
            launch=launch,
            inputs=tuple(Edge(one.name, one.name, (one.type,)) for one in (*made.values(), *below.values())),
            needs=variant.needs,
            produces=product.type if product is not None else None,
            facts=facts,
            runtime=runtime,
            flavour=flavour,
            chosen=f"{flavour}: {why}; {runtime}: {where_why}",
            policy=policy(step, launch, weights, named, self._loaded.directory, self._terms.smoke),
            resources=resources(launch, step, count, product),
            secrets=launch.secrets,
            notices=(*notices, *unenforced(step, runtime)),
            select=bool(getattr(engine, "select", False)),
            command=describe(launch),
            plugin=getattr(engine, "distribution", ""),
            options=options,
        )

    def _mended(self, variant: Variant, step: Step, engine: Engine) -> tuple[Variant, tuple[str, ...]]:
        """The step with steps of their own before it that turn inputs into what its engine takes, and what is said
        of them."""
        inputs, said = [], []
        for name in variant.inputs:
            through = put_through(engine, self._given[name], self._engines, self._terms.host)
            inner = f"{name}.{through.partition('/')[2]}" if through else name
            if through and inner not in self.steps:
                params = self._engines[through].params.model_validate_json("{}")
                before = Variant(inner, inner, {}, params, inputs=(name,))
                made = Step.model_validate({"uses": through, "device": step.device})
                self._places[inner] = self._where(variant.name, input_key(step, "from", name))
                self.attempt(inner, partial(self.step, before, made))
                if inner not in self.steps:
                    raise _Noted
            if through:
                said.append(
                    f"{engine.name} takes no {self._given[name].type}: {through} makes {inner} of it first"
                )
            inputs.append(inner)
        return (dataclasses.replace(variant, inputs=tuple(inputs)), tuple(said)) if said else (variant, ())

    def _edges_hold(self, variant: Variant, step: Step, engine: Engine) -> bool:
        named = references(engine.params)
        edges = [("from", name, tuple(engine.accepts)) for name in variant.inputs]
        edges += [(f"with.{field}", n, named[field]) for field, many in variant.given.items() for n in many]
        wrong = 0
        for key, name, accepts in edges:
            given = self._given[name]
            if name in self._types:
                given = msgspec.structs.replace(given, type=self._types[name])
            problem = edge_problem(variant.name, engine.name, given, accepts, self._engines)
            if problem is not None:
                wrong += 1
                place = self._where(variant.name, input_key(step, key, name))
                message = f"steps.{variant.name}.{key}: {problem[0]}"
                self.errors.append(UsageError(message, code="wrong-edge", hint=problem[1], where=place))
        return not wrong

    def _view(self, variant: Variant, step: Step, flavour: str, runtime: str, cards: int) -> StepView:
        return StepView(
            name=variant.name,
            recipe=self._loaded.recipe.name,
            params=variant.params,
            inputs=tuple(self._given[name] for name in variant.inputs),
            given={field: tuple(self._given[n] for n in names) for field, names in variant.given.items()},
            flavour=flavour,
            runtime=runtime,
            gpus=cards,
            gpu_share=step.gpu_share,
            host=step.host,
            memory=step.memory,
            cpus=step.cpus,
            extra_args=step.extra_args,
            secrets=step.secrets,
            network=step.network,
            trust_remote_code=step.trust_remote_code,
            allow_pickle=step.allow_pickle,
            idle_s=step.idle,
        )

    def _findings(self, variant: Variant, engine: Engine, view: StepView) -> tuple[str, ...]:
        """Warnings of the engine's check; its errors are noted."""
        warnings = []
        for finding in engine.check(view, self._terms.host):
            if finding.level == "warning":
                warnings.append(f"{finding.message} ({finding.hint})" if finding.hint else finding.message)
                continue
            place = f"steps.{variant.name}" + (f".{finding.key}" if finding.key else "")
            where = self._where(variant.name, finding.key)
            self.errors.append(UsageError(f"{place}: {finding.message}", hint=finding.hint, where=where))
        return tuple(warnings)

    def _fingerprints(self, variant: Variant) -> dict[str, str]:
        return {name: self.steps[name].fingerprint for name in reads(variant)}

    def _placed(self, name: str, error: QwendError) -> QwendError:
        """The error at the step's place in the recipe, if it has none of its own."""
        if error.where is not None or error.details or name in self._pins:
            return error
        kind = type(error) if type(error).__init__ is QwendError.__init__ else QwendError
        message = error.message if error.code == "plugin-failed" else f"steps.{name}: {error.message}"
        return kind(message, code=error.code, hint=error.hint, where=self._where(name))


class _Noted(Exception):
    """What is wrong was noted already."""
