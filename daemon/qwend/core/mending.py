"""Edges between steps: is the artifact one that the engine reads, and if not, which engines would make it so. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qwend.core.wording import listing
from qwend.model.host import Host
from qwend.plugin.protocols import Engine, Given
from qwend.plugin.samples import products

_LONGEST = 3


def edge_problem(
    user: str, engine: str, made: Given, accepts: tuple[str, ...], engines: Mapping[str, Engine]
) -> tuple[str, str | None] | None:
    """What is wrong with giving `made` to step `user`, and what would mend it; None if nothing is."""
    if made.type in accepts:
        return None
    if made.type == NOTHING:
        kind = "service" if made.engine and engines[made.engine].kind == "service" else "interactive step"
        return f"{made.name} is a {kind}, which makes nothing to read", "name a model, a dataset or a job"
    message = f"{made.name} is {made.type}, and {engine} reads {listing(sorted(accepts))}"
    chain = conversion(made.type, accepts, engines)
    if not chain:
        return message, "no engine that is installed turns the one into the other"
    return message, f"insert {listing(chain, 'and then')} between {made.name} and {user}"


def put_through(engine: Engine, made: Given, engines: Mapping[str, Engine], host: Host) -> str | None:
    """The engine that `engine` wants `made` put through first (`Engine.first`): of those that are installed the one
    that is best on this host. None where it takes it as it is, or where nobody knows what it belongs to."""
    named = () if made.type in engine.accepts else getattr(engine, "first", {}).get(made.type, ())
    there = [name for name in named if name in engines and made.lineage]
    return next((name for one in host.flavours() for name in there if one in engines[name].flavours), None)


NOTHING = ""
"""The type of what a service makes."""


def conversion(made: str, accepts: Iterable[str], engines: Mapping[str, Engine]) -> list[str]:
    """The shortest chain of jobs that turns an artifact of type `made` into one of `accepts`; of equally short ones
    the first by name. Engines that need a second input are not proposed. Empty if there is none."""
    goals = set(accepts)
    steps = {
        name: products(engine)
        for name, engine in sorted(engines.items())
        if engine.kind == "job" and not getattr(engine, "select", False)
    }
    known: dict[str, list[str]] = {made: []}
    frontier = [made]
    for _ in range(_LONGEST):
        following = []
        for kind in frontier:
            for name, table in steps.items():
                result = table.get(kind)
                if result is None or result in known:
                    continue
                known[result] = [*known[kind], name]
                if result in goals:
                    return known[result]
                following.append(result)
        frontier = following
    return []
