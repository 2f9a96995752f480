"""What the reconciler is given: the effects behind their protocols, and a place to tell what happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from qwend.core.redact import Redactor
from qwend.effects import Builder, Clock, LastWords, Machine, Prober, Progress, Runtime, State, Store
from qwend.errors import QwendError
from qwend.model.event import Event
from qwend.model.host import Host
from qwend.model.launch import Launch
from qwend.reconciler.desk import Desk

_PAY_S = 1.0


class Reports(Protocol):
    """Reads what a step writes: its log, and its report of progress, metrics and facts."""

    def progress(self, subject: str, launch: Launch, log: str, report: str) -> Progress | None:
        """What is new since the last call for this subject; None if nothing is."""
        ...

    def metrics(self, report: str) -> tuple[dict[str, float], dict[str, Any]]:
        """All metrics and facts of a report."""
        ...

    def selected(self, report: str) -> str | None:
        """Which input the step chose as its artifact, if it chose one."""
        ...

    def last_words(self, launch: Launch, log: str, report: str, since: int = 0) -> LastWords:
        """Why a step failed, from its report or from its log behind `since` bytes."""
        ...

    def forget(self, subject: str) -> None:
        """The step ended."""
        ...


class Hub:
    """Tells followers of events and progress as they come. A slow follower loses progress, never events."""

    def __init__(self) -> None:
        self._followers: set[asyncio.Queue[Event | Progress]] = set()

    def tell(self, news: Event | Progress) -> None:
        for queue in self._followers:
            if isinstance(news, Progress) and queue.qsize() > 1000:
                continue
            queue.put_nowait(news)

    @contextlib.asynccontextmanager
    async def follow(self) -> AsyncIterator[asyncio.Queue[Event | Progress]]:
        queue: asyncio.Queue[Event | Progress] = asyncio.Queue()
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)


@dataclass
class World:
    """Everything outside. `builders` and `runtimes` by name (`native`, `docker`); `home` is the daemon's folder."""

    instance: str
    home: str
    runtimes: dict[str, Runtime]
    builders: dict[str, Builder]
    store: Store
    state: State
    prober: Prober
    clock: Clock
    reports: Reports
    machine: Machine
    host: Host
    redactor: Redactor = field(default_factory=Redactor)
    hub: Hub = field(default_factory=Hub)
    secrets: dict[str, str] = field(default_factory=dict)
    desk: Desk = field(init=False)

    def __post_init__(self) -> None:
        self.desk = Desk(self)
        self._owed: dict[tuple[str, str], Event] = {}
        self._turns: dict[tuple[str, str], int] = {}
        self._paying: asyncio.Task[None] | None = None

    def learn(self, secrets: Mapping[str, str]) -> None:
        """Takes secrets from a client: steps that wait for them go on. They live in memory only, and nothing that
        is written shows them."""
        new = {name: value for name, value in secrets.items() if self.secrets.get(name) != value}
        if new:
            self.redactor.add(new.values())
            self.secrets.update(new)
            self.desk.wake()

    async def record(self, *events: Event) -> None:
        """Makes events durable, then tells of them. Raises QwendError where the disk does not take them."""
        for event in events:
            self._supersede(event)
        for event in await self.state.record(*events):
            self.hub.tell(event)

    def owe(self, event: Event) -> None:
        """A change that had to happen although the disk did not take it: recorded as soon as there is room."""
        self._supersede(event)
        self._owed[_place(event)] = event
        if self._paying is None or self._paying.done():
            self._paying = asyncio.create_task(self._pay(), name="owed events")

    async def close(self) -> None:
        """Tries once more to record what is owed, and ends the desk."""
        if self._paying is not None:
            self._paying.cancel()
            await asyncio.gather(self._paying, return_exceptions=True)
        for event in self._owed.values():
            with contextlib.suppress(QwendError):
                await self.state.record(event)
        await self.desk.close()

    async def _pay(self) -> None:
        while self._owed:
            await self.clock.sleep(_PAY_S)
            for place in list(self._owed):
                event, turn = self._owed.pop(place, None), self._turns[place]
                if event is None:
                    continue
                try:
                    for told in await self.state.record(event):
                        self.hub.tell(told)
                except QwendError:
                    if self._turns[place] == turn:  # else something newer was recorded meanwhile
                        self._owed[place] = event

    def _supersede(self, event: Event) -> None:
        """An event holds its subject's whole row: an owed one about the same subject is history."""
        place = _place(event)
        self._owed.pop(place, None)
        self._turns[place] = self._turns.get(place, 0) + 1


def _place(event: Event) -> tuple[str, str]:
    return (event.table or event.kind, event.subject)
