"""The pins of a recipe's sources: from the lock beside it, from files here, else from a hub.

Asking a hub is the only part of planning that may reach the network, and it does so in a child process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from qwend.api.control import RecipeRequest
from qwend.control.lockfile import LockFile
from qwend.effects import Progress
from qwend.errors import QwendError, Unreachable, UsageError
from qwend.model.artifact import Pin
from qwend.model.source import Question
from qwend.reconciler.reconciler import Reconciler
from qwend.worker.wire import Candidate, Wanted

Tell = Callable[[Progress], None]

_AWAY_S = 120.0


class Asker(Protocol):
    """Runs a question in a child process."""

    async def ask(self, question: Question, tell: Tell) -> Pin:
        """The pin that it prints. Raises Unreachable where no hub answers, QwendError for its other answers."""
        ...


class Pinning:
    """Resolves what recipes refer to."""

    def __init__(self, asker: Asker, reconciler: Reconciler) -> None:
        self._asker = asker
        self._reconciler = reconciler
        self._away: dict[str, tuple[float, Unreachable]] = {}

    async def pins(
        self, sources: Iterable[Wanted], lock: LockFile, request: RecipeRequest, tell: Tell
    ) -> dict[str, Pin]:
        """A pin for each source, by name; what a hub answered is set in `lock`. Raises QwendError for all that cannot
        be had, at once."""
        pins: dict[str, Pin] = {}
        problems: list[QwendError] = []
        for source in sources:
            try:
                pins[source.name] = await self._pin(source, lock, request, tell)
            except QwendError as error:
                problems.append(error)
        raise_all(problems, "several references cannot be resolved")
        return pins

    async def _pin(self, source: Wanted, lock: LockFile, request: RecipeRequest, tell: Tell) -> Pin:
        """The first candidate that can be pinned. What the lock holds is honoured first, unless it is to be
        upgraded."""
        upgrade = request.upgrade is not None and (not request.upgrade or source.name in request.upgrade)
        known = None if upgrade else lock.pin(source.name, [one.ref for one in source.candidates])
        if known is not None:
            return known
        if request.locked and any(_asked(candidate) for candidate in source.candidates):
            # Said without asking a hub: what it would answer is not in the lock, whatever it is.
            raise UsageError(
                f"{source.name}: {source.candidates[0].ref} is not in {lock.name}",
                code="lock-outdated",
                where=source.where or None,
                hint="run qwend lock, then commit the lock",
            )
        failures: list[QwendError] = []
        for candidate in source.candidates:
            try:
                pin = await self._resolve(candidate, source, tell)
            except QwendError as error:
                failures.append(error)
                continue
            if _asked(candidate):
                lock.set(source.name, pin)
            return _fallback(pin, failures)
        raise _all_failed(source, failures)

    async def _resolve(self, candidate: Candidate, source: Wanted, tell: Tell) -> Pin:
        if candidate.error is not None:
            raise QwendError.from_dict(candidate.error)
        resolution = candidate.resolution
        if resolution is None:
            raise QwendError(f"{source.name}: {candidate.ref} was not resolved", code="unresolved")
        if resolution.question is not None:
            return await self._ask(candidate.ref, resolution.question, source, tell)
        if resolution.pin is None:
            raise QwendError(f"{source.name}: {candidate.ref} has no pin", code="unresolved")
        if resolution.local is None:
            return resolution.pin
        tell(Progress(source.name, "hash", message=candidate.ref))
        digest, size = await self._reconciler.world.store.digest(resolution.local)
        facts = msgspec.structs.replace(resolution.pin.facts, bytes=resolution.pin.facts.bytes or size)
        return msgspec.structs.replace(
            resolution.pin, identity=f"sha256:{digest}", local=resolution.local, facts=facts
        )

    async def _ask(self, ref: str, question: Question, source: Wanted, tell: Tell) -> Pin:
        """A hub that did not answer a moment ago is not asked again at once: a second `up` is quick offline too."""
        clock = self._reconciler.world.clock
        away = self._away.get(ref)
        if away is not None and clock.monotonic() - away[0] < _AWAY_S:
            raise away[1]
        tell(Progress(source.name, "resolve", message=ref))
        try:
            return await self._asker.ask(question, tell)
        except Unreachable as error:
            self._away[ref] = (clock.monotonic(), error)
            raise


def raise_all(problems: Sequence[QwendError], text: str) -> None:
    """One error by itself, several as details of one of the first one's kind."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise type(problems[0])(text, details=tuple(problems))


def _asked(candidate: Candidate) -> bool:
    return candidate.resolution is not None and candidate.resolution.question is not None


def _fallback(pin: Pin, failures: list[QwendError]) -> Pin:
    """Says loudly when a made-up model stands in for one that no hub gave."""
    if not failures or not pin.ref.startswith("smoke:"):
        return pin
    why = "no hub reachable" if all(isinstance(one, Unreachable) for one in failures) else failures[0].message
    return msgspec.structs.replace(pin, notice=f"{why}: using a tiny untrained model, it talks nonsense")


def _all_failed(source: Wanted, failures: list[QwendError]) -> QwendError:
    """One error for all candidates; its kind is that of the first."""
    if not failures:
        return UsageError(f"{source.name} names no source", where=source.where or None)
    first = failures[0]
    if len(failures) == 1:
        return type(first)(
            f"{source.name}: {first.message}",
            code=first.code,
            hint=first.hint,
            where=first.where or source.where,
        )
    told = zip(source.candidates, failures, strict=True)
    text = "; ".join(f"{one.ref}: {failure.message}" for one, failure in told)
    kind = Unreachable if all(isinstance(one, Unreachable) for one in failures) else type(first)
    return kind(
        f"{source.name}: nothing could be had: {text}", code=first.code, where=source.where, hint=first.hint
    )
