"""What the reconciler is given: the effects behind their protocols, and a place to tell what happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from qwend.core.redact import Redactor
from qwend.effects import Builder, Clock, Machine, Prober, Progress, Runtime, State, Store
from qwend.model.event import Event
from qwend.model.host import Host
from qwend.model.launch import Launch
from qwend.reconciler.desk import Desk


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

    def last_words(self, launch: Launch, log: str, report: str) -> tuple[str, bool]:
        """Why a step failed in one line, from its report or its log, and whether its port was taken."""
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
    hub: Hub = field(default_factory=Hub)
    secrets: dict[str, str] = field(default_factory=dict)
    redactor: Redactor = field(default_factory=Redactor)
    desk: Desk = field(init=False)

    def __post_init__(self) -> None:
        self.desk = Desk(self)

    def learn(self, secrets: Mapping[str, str]) -> None:
        """Takes secrets from a client. They live in memory only, and nothing that is written shows them."""
        self.secrets.update(secrets)
        self.redactor.add(secrets.values())

    async def record(self, *events: Event) -> None:
        """Makes events durable, then tells of them."""
        for event in await self.state.record(*events):
            self.hub.tell(event)
