"""The connection to Docker Engine: blocking calls in worker threads, errors in our words, events as a stream.

The `docker` package blocks, so nothing but this module and `logs` touches it. It is imported on first use:
the import alone costs 150 ms of CPU, which a machine without Docker should not pay.
"""

from __future__ import annotations

import asyncio
import logging
import random
import resource
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from qwend.adapters.docker.address import Address, find_address, gone, require_listener
from qwend.errors import QwendError, StepFailed, Unreachable

logger = logging.getLogger("qwend.docker")

_CALL_TIMEOUT_S = 60
_THREADS = 8
_BACKOFF_S = (0.25, 10.0)
_QUIET_S = 5.0
"""How long nothing is heard before it is looked anyway: Podman opens its stream with the first event only."""
_WORDS = {"die": "die", "died": "die", "oom": "oom", "destroy": "destroy", "remove": "destroy"}
"""What is of interest, in Docker's words and Podman's."""


class Refused(StepFailed):
    """The engine answered and said no. `status` is HTTP's (404: no such thing, 409: in conflict)."""

    default_code = "engine-refused"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Engine(msgspec.Struct, frozen=True):
    """What answers at the socket. `rootless` maps the container's root to the user who started the engine."""

    version: str
    rootless: bool
    podman: bool
    gpus: bool
    limits: bool
    """Whether it can bound memory and processes (rootless engines need delegated cgroups for that)."""
    ulimits: tuple[tuple[str, int], ...] = ()
    """Limits that a container has to be given with its others: Podman asks for the kernel's otherwise, which it may
    not do where it is itself held to less (in a container, under a service manager)."""


class Change(msgspec.Struct, frozen=True):
    """A reason to look. `action` is `connected` (also after an interruption: everything may have changed),
    `quiet` (nothing was heard for a while), or the engine's own word: `die`, `oom`, `destroy`."""

    action: str
    marker: str = ""


class Connection:
    """One client, shared by all; made when it is first needed and made anew after it was lost."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment` gives DOCKER_HOST, DOCKER_CONTEXT and their kin; None takes the process's own."""
        self._environment = dict(environment) if environment is not None else None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._lock = threading.Lock()
        self._address: Address | None = None
        self._client: Any = None
        self._doubtful = True
        self._closed = False
        self._streams: set[Any] = set()

    async def call(self, work: Callable[[Any], Any]) -> Any:
        """Runs `work(client)` in a thread. Unreachable: no engine answers; Refused: it says no."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.call_blocking, work)

    def call_blocking(self, work: Callable[[Any], Any]) -> Any:
        """`call` for a caller that is in a thread already."""
        import docker.errors
        import requests.exceptions
        import urllib3.exceptions

        try:
            return work(self.client())
        except docker.errors.APIError as error:
            raise Refused(_explanation(error), status=error.status_code or 0) from None
        except QwendError:
            raise
        except (
            docker.errors.DockerException,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            self._doubtful = True
            raise gone(self.address(), _reason(error)) from None

    def address(self) -> Address:
        """Where the engine is. Raises UsageError for one on another machine."""
        if self._address is None:
            self._address = find_address(self._environment)
        return self._address

    def client(self) -> Any:
        """The `docker.APIClient`; connects if there is none yet."""
        import docker

        with self._lock:
            if self._closed:
                raise Unreachable("the connection to Docker Engine was closed")
            if self._doubtful:
                require_listener(self.address())
            if self._client is None:
                address = self.address()
                self._client = docker.APIClient(
                    base_url=address.url, tls=address.tls, timeout=_CALL_TIMEOUT_S, max_pool_size=256
                )
            self._doubtful = False
            return self._client

    async def engine(self) -> Engine:
        """What the engine is. Raises Unreachable."""

        def ask(client: Any) -> Engine:
            info = client.info()
            version = client.version()
            components = [part.get("Name", "") for part in version.get("Components") or ()]
            options = info.get("SecurityOptions") or []
            podman = any("podman" in name.lower() for name in components)
            return Engine(
                version=info.get("ServerVersion") or version.get("Version", ""),
                rootless=any("name=rootless" in option for option in options) or bool(info.get("Rootless")),
                podman=podman,
                gpus="nvidia" in (info.get("Runtimes") or {}) or bool(info.get("CDISpecDirs") and _cdi(info)),
                limits=bool(info.get("MemoryLimit")) and bool(info.get("PidsLimit", True)),
                ulimits=own_ulimits() if podman else (),
            )

        found: Engine = await self.call(ask)
        return found

    async def changes(self, label: str) -> AsyncIterator[Change]:
        """What happens to containers with `label` (`key=value`), without end: an engine that goes away is
        waited for with growing pauses, and `connected` is said each time it is back."""
        queue: asyncio.Queue[Change | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        pause, complained = _BACKOFF_S[0], False

        def tell(change: Change | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, change)

        while not self._closed:
            threading.Thread(target=self._pump, args=(label, tell), name="docker-events", daemon=True).start()
            connected = False
            try:
                while (change := await _next(queue)) is not None:
                    if change.action == "connected":
                        connected, complained, pause = True, False, _BACKOFF_S[0]
                    yield change
            finally:
                self._end_streams()
            if self._closed:
                return
            if not complained and not connected:
                complained = True
                logger.warning("Docker Engine does not answer; trying again until it does")
            elif connected:
                logger.warning("lost the connection to Docker Engine")
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(pause * 2, _BACKOFF_S[1])

    def _pump(self, label: str, tell: Callable[[Change | None], None]) -> None:
        """Body of the events thread: ends when the engine or `close` ends the stream."""
        filters = {"type": ["container"], "label": [label]}
        try:
            stream = self.call_blocking(lambda client: client.events(decode=True, filters=filters))
            self._streams.add(stream)
            tell(Change("connected"))
            for event in stream:
                attributes = (event.get("Actor") or {}).get("Attributes") or {}
                action = _WORDS.get(event.get("Action") or event.get("status") or "")
                if action is not None:
                    tell(Change(action, attributes.get("org.qwend.marker", "")))
        except Exception as error:  # whatever it is, the reader must be told, or it waits for ever
            logger.debug("events of Docker Engine ended: %s", error)
        finally:
            tell(None)

    def _end_streams(self) -> None:
        while self._streams:
            try:
                self._streams.pop().close()
            except Exception as error:  # a stream that the engine ended first is closed already
                logger.debug("closing a stream: %s", error)

    async def close(self) -> None:
        """Lets go of the engine; what runs there goes on."""
        self._closed = True
        self._end_streams()
        self._threads.shutdown(wait=False, cancel_futures=True)
        client, self._client = self._client, None
        if client is not None:
            client.close()


async def _next(queue: asyncio.Queue[Change | None]) -> Change | None:
    try:
        return await asyncio.wait_for(queue.get(), _QUIET_S)
    except TimeoutError:
        return Change("quiet")


def own_ulimits() -> tuple[tuple[str, int], ...]:
    """Files and processes that this process may have, so far as they are bounded; of processes there are never more
    than the kernel has numbers for."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    try:
        numbers = int(Path("/proc/sys/kernel/pid_max").read_text())
        processes = numbers if processes == resource.RLIM_INFINITY else min(processes, numbers)
    except (OSError, ValueError):
        pass  # no Linux: its own bound will do
    bounds = (("nofile", files), ("nproc", processes))
    return tuple((name, most) for name, most in bounds if most != resource.RLIM_INFINITY)


def _cdi(info: Mapping[str, Any]) -> bool:
    return any("nvidia" in device.get("ID", "") for device in info.get("DiscoveredDevices") or ())


def _reason(error: Exception) -> str:
    """The innermost cause: the package wraps the system's word in three layers."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return (getattr(cause, "strerror", None) or " ".join(str(cause).split()))[:200]


def _explanation(error: Any) -> str:
    text = error.explanation or str(error)
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return " ".join(str(text).split())[:600]
