"""Properties of plans over random recipes: graphs of conversions, quantisations, comparisons and services."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.compile_kit import CPU, compiled, steps
from tests.unit.core.test_planner import done

from qwend.core.planner import Snapshot, plan

TYPES = ("Q8_0", "Q5_K_M", "Q4_K_M")


@dataclass(frozen=True)
class Node:
    """A step of a random recipe; `reads` are indices of nodes before it, -1 the source."""

    engine: str
    reads: tuple[int, ...]
    options: tuple[tuple[str, Any], ...] = ()
    keep: bool = True


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Node, ...]:
    nodes: list[Node] = []
    readable = [-1]
    for index in range(draw(st.integers(1, 8))):
        engine = draw(st.sampled_from(("toy/quantize", "toy/quantize", "toy/compare", "toy/serve")))
        most = 3 if engine == "toy/compare" else 1
        reads = draw(st.lists(st.sampled_from(readable), min_size=1, max_size=most, unique=True))
        options: tuple[tuple[str, Any], ...] = ()
        if engine == "toy/quantize":
            taken = {dict(nodes[read].options).get("type") for read in reads if read >= 0}
            kind = draw(st.sampled_from([kind for kind in TYPES if kind not in taken]))
            options = (("type", kind), ("threads", draw(st.integers(1, 8))))
            readable.append(index)
        keep = draw(st.booleans()) if engine != "toy/serve" else True
        nodes.append(Node(engine, tuple(reads), options, keep))
    return tuple(nodes)


def recipe(nodes: tuple[Node, ...], names: list[str], order: list[int], source: str = "base") -> str:
    """The recipe as JSON, which is YAML too; `order` is that of the file."""

    def called(index: int) -> str:
        return source if index < 0 else names[index]

    written = {}
    for index in order:
        node = nodes[index]
        step: dict[str, Any] = {"uses": node.engine, "from": [called(read) for read in node.reads]}
        if node.options:
            step["with"] = dict(node.options)
        if not node.keep:
            step["keep"] = False
        written[names[index]] = step
    return json.dumps({"name": "random", "models": {source: "shop:tiny/model/gguf"}, "steps": written})


def plain(nodes: tuple[Node, ...]) -> str:
    return recipe(nodes, [f"s{index}" for index in range(len(nodes))], list(range(len(nodes))))


def followers(nodes: tuple[Node, ...], changed: int) -> set[int]:
    found = {changed}
    for index, node in enumerate(nodes):
        if found.intersection(node.reads):
            found.add(index)
    return found


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_the_plan_of_an_unchanged_world_keeps_everything(nodes: tuple[Node, ...]) -> None:
    made = compiled(plain(nodes))
    assert not plan(made, done(made)).changes


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_the_same_arguments_give_the_same_plan(nodes: tuple[Node, ...]) -> None:
    one, other = compiled(plain(nodes)), compiled(plain(nodes))
    assert one == other
    assert plan(one, Snapshot(host=CPU)) == plan(other, Snapshot(host=CPU))


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 1 << 30))
def test_fingerprints_depend_neither_on_names_nor_on_the_order_of_the_file(
    nodes: tuple[Node, ...], seed: int
) -> None:
    rng = random.Random(seed)
    names = [f"n{number}" for number in rng.sample(range(1000), len(nodes))]
    order = rng.sample(range(len(nodes)), len(nodes))
    before = steps(compiled(plain(nodes)))
    after = steps(compiled(recipe(nodes, names, order, source="other")))
    for index, name in enumerate(names):
        assert before[f"s{index}"].fingerprint == after[name].fingerprint


@settings(max_examples=60, deadline=None)
@given(graphs(), st.data())
def test_a_change_of_one_parameter_changes_its_followers_and_nothing_else(
    nodes: tuple[Node, ...], data: st.DataObject
) -> None:
    quantised = [index for index, node in enumerate(nodes) if node.engine == "toy/quantize"]
    if not quantised:
        return
    index = data.draw(st.sampled_from(quantised))
    extra = replace(nodes[index], options=(*nodes[index].options, ("type", _other(nodes, index))))
    changed = (*nodes[:index], extra, *nodes[index + 1 :])
    before, after = steps(compiled(plain(nodes))), steps(compiled(plain(changed)))
    different = {
        number
        for number in range(len(nodes))
        if before[f"s{number}"].fingerprint != after[f"s{number}"].fingerprint
    }
    same = extra.options[-1][1] == nodes[index].options[0][1]
    assert different == (set() if same else followers(nodes, index))
    after_compiled = compiled(plain(changed))
    made = plan(after_compiled, done(compiled(plain(nodes))))
    touched = {a.step for a in made.actions if a.verb != "keep"} - {"base"}
    assert touched <= {f"s{number}" for number in different} | _needed(after_compiled)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.data())
def test_whatever_is_missing_the_plan_makes_what_its_actions_read(
    nodes: tuple[Node, ...], data: st.DataObject
) -> None:
    made = compiled(plain(nodes))
    gone = data.draw(st.sets(st.sampled_from([step.name for step in made.steps])))
    world = done(made, without=gone)
    found = plan(made, world)
    there = set(world.artifacts)  # type: ignore[call-overload]
    known = steps(made)
    for action in found.actions:
        if action.verb in ("run", "start", "replace"):
            assert all(known[edge.step].fingerprint in there for edge in known[action.step].inputs)
            there.add(known[action.step].fingerprint)
    for name in gone:
        if known[name].kind == "service":
            assert any(a.step == name and a.verb == "start" for a in found.actions)


def _other(nodes: tuple[Node, ...], index: int) -> str:
    """A type that neither the step's inputs nor its consumers have: those would be refused."""
    near = {dict(nodes[read].options).get("type") for read in nodes[index].reads if read >= 0}
    near |= {dict(node.options).get("type") for node in nodes if index in node.reads}
    free = [kind for kind in TYPES if kind not in near]
    return free[0] if free else str(dict(nodes[index].options)["type"])


def _needed(made: Any) -> set[str]:
    """Intermediates that may be made again for a consumer that changed."""
    return {step.name for step in made.steps if not step.policy.keep}


def test_the_json_of_a_compilation_is_the_same_compilation() -> None:
    made = compiled(plain((Node("toy/quantize", (-1,), (("type", "Q8_0"),)), Node("toy/serve", (0,)))))
    assert msgspec.json.decode(msgspec.json.encode(made), type=type(made)) == made
