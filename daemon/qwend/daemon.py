"""The composition root: the only place that names adapters. `python -m qwend.daemon` is the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import logging.handlers
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import msgspec

from qwend import __version__, paths, settings
from qwend.adapters.asking import ChildAsker
from qwend.adapters.clock import SystemClock
from qwend.adapters.hardware import HostMachine
from qwend.adapters.home import instance_id, make_private
from qwend.adapters.image_keeper import ImageKeeper
from qwend.adapters.lock import DaemonLock, remove_stale_socket
from qwend.adapters.native.runtime import NativeRuntime
from qwend.adapters.pip_settings import IndexSettings
from qwend.adapters.ports import taken
from qwend.adapters.prober import HttpProber
from qwend.adapters.programs import NativeBuilder
from qwend.adapters.rebuild import Rebuilt, rebuild
from qwend.adapters.reports import FileReports
from qwend.adapters.state import SqliteState
from qwend.adapters.store import ArtifactStore
from qwend.adapters.venv.builder import VenvBuilder
from qwend.adapters.volume import Reserve
from qwend.api.app import application
from qwend.api.serve import listen, serve
from qwend.control.control import DaemonControl, Rooms
from qwend.control.diagnosis import Diagnosis
from qwend.control.planning import Planning
from qwend.core.redact import Redactor
from qwend.effects import Builder, Runtime
from qwend.errors import QwendError
from qwend.model.event import Event
from qwend.model.host import Host
from qwend.model.image import prefer_options
from qwend.model.image_file import OptionValue
from qwend.reconciler.reconciler import Reconciler
from qwend.reconciler.world import World
from qwend.worker.client import WorkerClient

log = logging.getLogger("qwend.daemon")

_DOCKER_S = 10.0


def main() -> int:
    """Serves until SIGTERM, SIGINT or a stop over the API; services live on. With `--rebuild` makes a new state
    database from what can be read of a damaged one. Exit code 0, or that of the error."""
    home = paths.home()
    try:
        make_private(home)
        _log_to(paths.daemon_log(home))
        lock = DaemonLock.take(home, time.time())
    except QwendError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return error.exit_code
    try:
        if sys.argv[1:] == ["--rebuild"]:
            print(_told(asyncio.run(rebuild(home))))
        else:
            asyncio.run(_daemon(home))
    except QwendError as error:
        log.error("%s", "; ".join(error.lines()))
        print("\n".join(error.lines()), file=sys.stderr)
        return error.exit_code
    except sqlite3.DatabaseError as error:
        log.exception("the state database")
        print(
            f"the state database is damaged: {error} (qwend doctor --rebuild makes it anew)", file=sys.stderr
        )
        return 1
    except Exception:
        log.exception("the daemon ends")
        print(f"the daemon met a bug; {paths.daemon_log(home)} has more", file=sys.stderr)
        return 1
    finally:
        lock.release()
    return 0


def _told(rebuilt: Rebuilt) -> str:
    rows = ", ".join(f"{count} of {table}" for table, count in sorted(rebuilt.rows.items())) or "none"
    kept = f"; the old database is kept as {rebuilt.kept}" if rebuilt.kept else ""
    return f"rebuilt: {rebuilt.artifacts} artifacts, rows: {rows}{kept}"


async def _daemon(home: str) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    chosen = settings.load()
    instance = instance_id(home)
    redactor = Redactor()
    state = await SqliteState.open(
        os.path.join(home, "state.db"), port_range=chosen.port_range, redactor=redactor
    )
    machine = HostMachine(home)
    host = await machine.observe()
    store = await ArtifactStore.open(
        os.path.join(home, "store"), reserve=Reserve(home), quota=chosen.store_quota, redactor=redactor
    )
    venvs = VenvBuilder(Path(home), _index_settings(chosen.images))
    builders: dict[str, Builder] = {"native": NativeBuilder(venvs)}
    hub_env = _hub_environment(chosen.hub)
    runtimes: dict[str, Runtime] = {"native": NativeRuntime(Path(home), instance, hub_env)}
    world = World(
        instance=instance,
        home=home,
        runtimes=runtimes,
        builders=builders,
        store=store,
        state=state,
        prober=HttpProber(),
        clock=SystemClock(),
        reports=FileReports(redactor),
        machine=machine,
        host=host,
        redactor=redactor,
    )
    reconciler = Reconciler(world)
    build_options = _build_options(chosen.images)
    prefer_options(build_options)
    worker = WorkerClient(build_options=build_options)
    default = None if chosen.runtime == "auto" else chosen.runtime
    images = ImageKeeper(venvs, builders, host, default)

    docker = DockerRoom(world, reconciler, images, chosen, hub_env)

    def ready_runtimes(seen: Host) -> tuple[Host, tuple[str, ...]]:
        answering = tuple(name for name in runtimes if name != "docker" or seen.docker is not None)
        if seen.docker is None:
            return seen, answering
        return msgspec.structs.replace(seen, docker_lacks=docker.lacks), answering

    planning = Planning(
        worker,
        ChildAsker(builders["native"], Path(home) / "run", hub_env, world.secrets),
        images,
        reconciler,
        runtime=default,
        runtimes=ready_runtimes,
        taken=taken,
    )
    rooms = Rooms(
        reconciler,
        planning,
        store,
        images,
        state,
        state,
        worker,
        Diagnosis(world, lambda: docker.lacks),
        stopping,
        chosen.source,
    )
    control = DaemonControl(rooms)
    counts = await reconciler.recover()
    await docker.look()
    resumed = await control.running.resume()
    log.info("qwend %s serves %s: %s, %d runs resumed", __version__, home, counts, resumed)
    path = Path(paths.socket(home))
    make_private(str(path.parent))
    remove_stale_socket(str(path))
    sock = listen(path)
    gc.freeze()
    beside = [
        asyncio.create_task(_tell_plugins(world, worker), name="observers"),
        asyncio.create_task(docker.watch(), name="docker"),
    ]
    try:
        await serve(application(control), sock, stopping)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        for task in beside:
            task.cancel()
        await reconciler.close()
        await world.close()
        for runtime in runtimes.values():
            await runtime.close()
        await worker.close()
        await store.close()
        await state.close()
        log.info("the daemon ended; services live on")


class DockerRoom:
    """Takes up Docker Engine when it answers, now or later; where there is none its code is not even loaded."""

    def __init__(
        self,
        world: World,
        reconciler: Reconciler,
        images: ImageKeeper,
        chosen: settings.Settings,
        hub_env: dict[str, str],
    ) -> None:
        self._world = world
        self._reconciler = reconciler
        self._images = images
        self._chosen = chosen
        self._hub_env = hub_env
        self.lacks: str | None = None
        """Why the engine cannot make our images. Found out once: a network that comes and goes moves no step."""

    async def watch(self) -> None:
        """Returns once the engine is taken up."""
        while "docker" not in self._world.runtimes:
            await asyncio.sleep(_DOCKER_S)
            await self.look()

    async def look(self) -> None:
        host = await self._world.machine.observe()
        if host.docker is None:
            return
        from qwend.adapters.docker.build import DockerBuilder
        from qwend.adapters.docker.connection import Connection
        from qwend.adapters.docker.construction import Base
        from qwend.adapters.docker.keeper import EngineImages
        from qwend.adapters.docker.readiness import lacking
        from qwend.adapters.docker.runtime import DockerRuntime

        own, connection = self._chosen.images, Connection()
        runtime = DockerRuntime(self._world.instance, connection, settings_env=self._hub_env, ca=own.ca)
        base = Base(own.base, own.base_id, {name: Base(*one) for name, one in own.bases.items()})
        builder = DockerBuilder(Path(self._world.home), connection, _index_settings(own), base)
        self._world.runtimes["docker"] = runtime
        self._world.builders["docker"] = builder
        try:
            counts = await self._reconciler.attach("docker")
        except QwendError as error:
            log.warning("Docker Engine %s cannot be used: %s", host.docker, error)
            del self._world.runtimes["docker"], self._world.builders["docker"]
            await runtime.close()
            return
        self._images.oci = EngineImages(builder)
        self.lacks = await lacking(connection, base)
        log.info("Docker Engine %s: %s", host.docker, counts)


async def _tell_plugins(world: World, worker: WorkerClient) -> None:
    """Plugins that observe are told of events after they are committed."""
    async with world.hub.follow() as news:
        while True:
            item = await news.get()
            if isinstance(item, Event):
                await worker.notify([item])


def _index_settings(images: settings.Images) -> IndexSettings:
    return IndexSettings(
        index=images.index,
        extra_index=list(images.extra_index),
        find_links=list(images.find_links),
        trusted_hosts=list(images.trusted_hosts),
        ca=images.ca,
        proxy=images.proxy,
        timeout=images.timeout,
        no_index=images.no_index,
        python_downloads=images.python_downloads,
    )


def _build_options(images: settings.Images) -> dict[str, OptionValue]:
    """What qwend.toml says of build options, by the options' own names."""
    return {"architectures": images.cuda_architectures} if images.cuda_architectures else {}


def _hub_environment(hub: settings.Hub) -> dict[str, str]:
    named = {"HF_ENDPOINT": hub.huggingface, "MODELSCOPE_DOMAIN": hub.modelscope}
    return {name: value for name, value in named.items() if value}


def _log_to(path: str) -> None:
    """The daemon's own log: 5 MiB, one older file kept."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=5 << 20, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
