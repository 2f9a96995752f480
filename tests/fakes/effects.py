"""Recording fakes of the effects: a world in memory whose processes end when a test says so."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import Any

import msgspec

from qwend.effects import LastWords, OnProgress, Order, Progress, Realised, Screen, Terminal, Work
from qwend.errors import OutOfResource, QwendError, UsageError
from qwend.model.artifact import Artifact, Facts
from qwend.model.event import Event
from qwend.model.host import Host
from qwend.model.image import HostProgram, Image
from qwend.model.launch import HttpProbe, Launch, Probe
from qwend.model.lease import Lease
from qwend.model.plan import Compiled, CompiledStep, Edge, Policy
from qwend.model.service import Exit, Handle
from qwend.reconciler.world import World

GIB = 1024**3
IMAGE = HostProgram(name="echo", program="echo", install_hint="it is everywhere")


class FakeRuntime:
    """Processes are names; `end` makes one end. Every call is in `calls`."""

    name = "native"

    def __init__(self, crash: FakeRuntime | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self.running: dict[str, Handle] = dict(crash.running) if crash else {}
        self.unacknowledged: dict[str, Exit] = dict(crash.unacknowledged) if crash else {}
        self.refuse: QwendError | None = None
        self.ignores_sigterm = False
        self.orders: list[Order] = []
        self._exits: asyncio.Queue[Exit] = asyncio.Queue()
        self._pids = itertools.count(1000)

    async def start(self, order: Order) -> Handle:
        marker = order.identity.marker
        self.calls.append(("start", order.identity.key))
        self.orders.append(order)
        if self.refuse is not None:
            raise self.refuse
        if marker not in self.running:
            pid = next(self._pids)
            self.running[marker] = Handle("native", marker, str(pid), pid, "1")
        return self.running[marker]

    async def stop(self, handle: Handle, grace_s: float) -> bool:
        self.calls.append(("stop", handle.marker.split(":")[2]))
        if handle.marker in self.running:
            self.end(handle.marker, signal=9 if self.ignores_sigterm else 15)
        return self.ignores_sigterm

    async def living(self) -> dict[str, Handle]:
        return dict(self.running)

    async def backlog(self) -> list[Exit]:
        return list(self.unacknowledged.values())

    async def exits(self) -> AsyncIterator[Exit]:
        for ended in list(self.unacknowledged.values()):
            yield ended
        while True:
            yield await self._exits.get()

    async def acknowledge(self, ended: Exit) -> None:
        self.unacknowledged.pop(ended.marker, None)

    async def listens(self, handle: Handle, port: int) -> bool | None:
        return True

    async def attach(self, order: Order, screen: Screen) -> Terminal:
        self.calls.append(("attach", order.identity.key))
        self.orders.append(order)
        if self.refuse is not None:
            raise self.refuse
        return Terminal((order.image.location, screen.term), {})

    async def detach(self, order: Order) -> None:
        self.calls.append(("detach", order.identity.key))

    async def close(self) -> None:
        pass

    def end(self, marker: str, code: int | None = None, signal: int | None = None, oom: bool = False) -> None:
        """The process is gone."""
        del self.running[marker]
        ended = Exit(marker, code=code, signal=signal, oom=oom)
        self.unacknowledged[marker] = ended
        self._exits.put_nowait(ended)

    def marker(self, key: str) -> str:
        """The marker of the running process of `recipe/step`."""
        return next(marker for marker in self.running if marker.split(":")[2] == key)


class FakeBuilder:
    """Every image is there, unless `missing`; `built` counts builds, which raise what is `broken`."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.broken: QwendError | None = None
        self.built: list[str] = []
        self.gate: asyncio.Event | None = None

    async def realise(self, image: Image, progress: OnProgress) -> Realised:
        self.built.append(image.name)
        progress(Progress("", "install", 1, 2))
        if self.gate is not None:
            await self.gate.wait()
        if self.broken is not None:
            raise self.broken
        self.missing.discard(image.name)
        return Realised(image.name, "program", "/bin/echo", image.digest)

    async def find(self, image: Image) -> Realised | None:
        return (
            None if image.name in self.missing else Realised(image.name, "program", "/bin/echo", image.digest)
        )


class FakeStore:
    """Artifacts by fingerprint. `full` makes commits fail as a full disk does."""

    def __init__(self) -> None:
        self.artifacts: dict[str, Artifact] = {}
        self.metrics: dict[str, dict[str, float]] = {}
        self.full = False
        self.published: list[str] = []
        self.taken: set[str] = set()

    async def find(self, fingerprint: str) -> Artifact | None:
        return self.artifacts.get(fingerprint)

    async def latest(self, recipe: str, step: str, engine: str) -> Artifact | None:
        return None

    async def prepare(self, fingerprint: str, keep: bool) -> Work:
        return self.work(fingerprint)

    def work(self, fingerprint: str) -> Work:
        root = f"/nowhere/{fingerprint}"
        return Work(root, f"{root}/out", f"{root}/scratch", f"{root}/report.jsonl")

    async def commit(
        self,
        work: Work,
        *,
        fingerprint: str,
        type: str,
        facts: Facts,
        metrics: Mapping[str, float],
        provenance: Mapping[str, Any],
    ) -> Artifact:
        if self.full:
            raise OutOfResource("no space left on /nowhere", code="disk-full")
        return self.put(fingerprint, type, metrics)

    def put(
        self, fingerprint: str, type: str = "report", metrics: Mapping[str, float] | None = None
    ) -> Artifact:
        artifact = Artifact(
            f"digest-of-{fingerprint}",
            fingerprint,
            type,
            (),
            1,
            location="/nowhere",
            metrics=dict(metrics or {}),
        )
        self.artifacts[fingerprint] = artifact
        return artifact

    async def discard(self, fingerprint: str) -> None:
        pass

    async def reference(
        self,
        path: str,
        *,
        fingerprint: str,
        type: str,
        facts: Facts,
        provenance: Mapping[str, Any],
        only: Collection[str] = (),
    ) -> Artifact:
        return self.put(fingerprint, type)

    async def alias(
        self, fingerprint: str, of: Artifact, metrics: Mapping[str, float], provenance: Mapping[str, Any]
    ) -> Artifact:
        told = {**of.metrics, **metrics}
        self.artifacts[fingerprint] = msgspec.structs.replace(of, fingerprint=fingerprint, metrics=told)
        return self.artifacts[fingerprint]

    async def digest(self, path: str) -> tuple[str, int]:
        return "0" * 64, 0

    async def publish(self, artifact: Artifact, out: str) -> None:
        self.published.append(out)

    async def publishable(self, out: str) -> None:
        if out in self.taken:
            raise UsageError(f"{out} is there already", code="out-exists")


class FakeState:
    """Events in a list. `full` makes records fail; a crash keeps what was recorded."""

    def __init__(self, crash: FakeState | None = None) -> None:
        self.events: list[Event] = list(crash.events) if crash else []
        self.tables: dict[str, dict[str, dict[str, Any]]] = {}
        for event in self.events:
            self._project(event)
        self.ports: dict[str, int] = dict(crash.ports) if crash else {}
        self.released: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.active: set[str] = set(crash.active) if crash else set()
        self.full = False

    async def record(self, *events: Event) -> tuple[Event, ...]:
        if self.full:
            raise OutOfResource("no space left for the state", code="disk-full")
        for event in events:
            self.events.append(event)
            self._project(event)
        return events

    def _project(self, event: Event) -> None:
        if event.table is None:
            return
        table = self.tables.setdefault(event.table, {})
        if event.row is None:
            table.pop(event.subject, None)
        else:
            table[event.subject] = msgspec.json.decode(msgspec.json.encode(event.row))

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        if table == "lease":
            return {key: {"port": port, "active": key in self.active} for key, port in self.ports.items()}
        return self.tables.get(table, {})

    async def lease_port(self, holder: str, wanted: int | None, avoid: Iterable[int] = ()) -> Lease:
        taken = {port for other, port in self.ports.items() if other != holder} | set(avoid)
        port = wanted or self.ports.get(holder)
        if wanted in taken:
            raise OutOfResource(f"port {wanted} is taken", code="port-taken")
        if port is None or port in taken:
            port = next(number for number in range(20000, 20100) if number not in taken)
        self.ports[holder] = port
        self.active.add(holder)
        return Lease("port", str(port), holder, sticky=True)

    async def release(self, holder: str, sticky: bool = False) -> None:
        if self.full:
            raise OutOfResource("no space left for the state", code="disk-full")
        self.active.discard(holder)
        self.released[holder].set()
        if sticky:
            self.ports.pop(holder, None)

    async def exchange(self, one: str, other: str) -> None:
        self.ports[one], self.ports[other] = self.ports[other], self.ports[one]


class FakeProber:
    """`sick` is what every probe says; None is health."""

    def __init__(self) -> None:
        self.sick: str | None = None

    async def ask(self, host: str, port: int, probe: HttpProbe, headers: Mapping[str, str]) -> str | None:
        return self.sick


class FakeClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.jump = 0.0  # of the clock on the wall
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now + self.jump

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Lets time pass in the order in which sleepers wake."""
        end = self.now + seconds
        while True:
            await settle()
            waiting = [when for when, future in self._sleepers if not future.done() and when <= end]
            due = min(waiting, default=None)
            if due is None:
                break
            self.now = max(self.now, due)
            for when, future in self._sleepers:
                if when <= self.now and not future.done():
                    future.set_result(None)
            self._sleepers = [(when, future) for when, future in self._sleepers if not future.done()]
        self.now = end
        await settle()


class FakeReports:
    """`words` is why a step failed; `figures` its metrics."""

    def __init__(self) -> None:
        self.words = ""
        self.taken = False
        self.code = ""
        self.figures: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self.choice: str | None = None

    def progress(self, subject: str, launch: Launch, log: str, report: str) -> Progress | None:
        return None

    def metrics(self, report: str) -> tuple[dict[str, float], dict[str, Any]]:
        return dict(self.figures), dict(self.facts)

    def selected(self, report: str) -> str | None:
        return self.choice

    def last_words(self, launch: Launch, log: str, report: str, since: int = 0) -> LastWords:
        return LastWords(self.words, self.taken, self.code)

    def forget(self, subject: str) -> None:
        pass


class FakeMachine:
    def __init__(self, host: Host) -> None:
        self.host = host

    async def observe(self) -> Host:
        return self.host


async def settle() -> None:
    """Lets everything happen that can happen without time passing."""
    for _ in range(50):
        await asyncio.sleep(0)


def world(tmp_path: str, crash: World | None = None, host: Host | None = None) -> World:
    """A fresh world, or the one that a crashed daemon leaves to the next."""
    host = host or Host("linux", "x86_64", 2, 8 * GIB, 8 * GIB)
    old_state: Any = crash.state if crash else None
    old_runtime: Any = crash.runtimes["native"] if crash else None
    return World(
        instance="i",
        home=str(tmp_path),
        runtimes={"native": FakeRuntime(old_runtime)},
        builders={"native": FakeBuilder()},
        store=crash.store if crash else FakeStore(),
        state=FakeState(old_state),
        prober=FakeProber(),
        clock=FakeClock(),
        reports=FakeReports(),
        machine=FakeMachine(host),
        host=host,
    )


PROBE = Probe(ready=HttpProbe("/health"), work=HttpProbe("/v1/chat/completions", body={}))


def job(name: str, *inputs: str, fingerprint: str | None = None, **policy: Any) -> CompiledStep:
    return _step("job", name, inputs, Launch(argv=("true",)), fingerprint, policy, produces="report")


def service(name: str, *inputs: str, fingerprint: str | None = None, **policy: Any) -> CompiledStep:
    return _step(
        "service",
        name,
        inputs,
        Launch(argv=("serve",), probe=PROBE),
        fingerprint,
        {"deadline_s": 60.0, **policy},
    )


def chat(name: str, *inputs: str, **fields: Any) -> CompiledStep:
    """An interactive step."""
    made = _step("interactive", name, inputs, Launch(argv=("talk",)), None, {})
    return msgspec.structs.replace(made, **fields)


def _step(
    kind: Any,
    name: str,
    inputs: tuple[str, ...],
    launch: Launch,
    fingerprint: str | None,
    policy: dict[str, Any],
    produces: str | None = None,
) -> CompiledStep:
    return CompiledStep(
        name=name,
        engine=f"fake/{kind}",
        kind=kind,
        fingerprint=fingerprint or f"fp-{name}",
        ingredients={},
        image=IMAGE,
        launch=launch,
        inputs=tuple(Edge(one, one) for one in inputs),
        produces=produces,
        policy=Policy(**policy),
    )


def recipe(*steps: CompiledStep, name: str = "r") -> Compiled:
    return Compiled(name, "digest", steps, "/nowhere")
