"""An engine that is not there, goes away, comes back: a private dockerd is killed and started again."""

# ruff: noqa: ASYNC110, ASYNC240 (a test has its loop to itself)

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from qwend.adapters.docker import readiness
from qwend.adapters.docker.address import Address, find_address, require_listener
from qwend.adapters.docker.connection import Connection, Engine
from qwend.adapters.docker.construction import Base
from qwend.adapters.docker.runtime import DockerRuntime
from qwend.errors import Unreachable, UsageError

from .conftest import MakeOrder


async def test_no_engine_is_said_with_what_to_do(tmp_path: Path) -> None:
    connection = Connection({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    runtime = DockerRuntime("x", connection, tmp_path / "secrets")
    with pytest.raises(Unreachable, match="does not answer") as caught:
        await runtime.living()
    assert "systemctl start docker" in (caught.value.hint or "")
    await runtime.close()


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:2375", "ssh://somebody@example.org", "tcp://example.org"]
)
def test_an_engine_on_another_machine_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="another machine"):
        find_address({"DOCKER_HOST": address})


def test_an_engine_on_the_loopback_is_taken() -> None:
    assert find_address({"DOCKER_HOST": "tcp://127.0.0.1:2375"}).url == "tcp://127.0.0.1:2375"


def test_a_docker_context_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"mine").hexdigest()
    meta.mkdir(parents=True)
    endpoint = {"Host": "unix:///run/user/7/docker.sock", "SkipTLSVerify": False}
    described = {"Name": "mine", "Metadata": {}, "Endpoints": {"docker": endpoint}}
    (tmp_path / "config.json").write_text("{}")
    (meta / "meta.json").write_text(json.dumps(described))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert find_address({"DOCKER_CONTEXT": "mine"}).socket == "/run/user/7/docker.sock"


def test_a_rootless_engine_is_found_where_no_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwend.adapters.docker.address.DEFAULT", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "docker.sock").touch()
    found = find_address({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert found.socket in {f"{tmp_path}/docker.sock", "/var/run/docker.sock"}


class PrivateEngine:
    """A dockerd of this test's own, in folders and a network namespace of its own: it must not touch the
    bridge and the packet filter of an engine beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = f"unix://{root}/docker.sock"
        self.image = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = [
            *("unshare", "--net"),
            "dockerd",
            f"--host={self.address}",
            f"--data-root={self.root}/data",
            f"--exec-root={self.root}/exec",
            f"--pidfile={self.root}/pid",
            "--live-restore",
        ]
        with open(self.root / "dockerd.log", "ab") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while not self.answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                log_text = (self.root / "dockerd.log").read_text()
                raise RuntimeError(f"a private dockerd does not come up here: {log_text[-2000:]}")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it listens and has finished its start."""
        try:
            require_listener(Address(self.address))
        except Unreachable:
            return False
        with contextlib.closing(self.client()) as client:
            return bool(client.ping())

    def client(self) -> Any:
        return docker.DockerClient(base_url=self.address, timeout=30).api

    def kill(self) -> None:
        """As a crash does: its containers live on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        # Its containerd dies with it; as a zombie it would still count as running.
        (self.root / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def end(self) -> None:
        """The crash is the quick way out where nothing runs any more; it leaves its own mount behind."""
        self.kill()
        subprocess.run(["umount", "--lazy", str(self.root / "data")], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.root, ignore_errors=True)


def small_image(client: Any) -> str:
    """The host's own shell and sleep with their libraries: enough for a loop, and there in an instant."""
    programs = [os.path.realpath(found) for name in ("sh", "sleep") if (found := shutil.which(name))]
    linked = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    libraries = sorted(set(re.findall(r"(/\S+) \(0x", linked)))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
        for name, path in zip(("bin/sh", "bin/sleep"), programs, strict=True):
            archive.add(path, name)
        for path in libraries:
            archive.add(path, path.lstrip("/"))
    client.import_image_from_data(packed.getvalue(), repository="small")
    return str(client.inspect_image("small")["Id"])


@pytest.fixture
def private_engine(engine: Any) -> Iterator[PrivateEngine]:
    if os.geteuid() != 0 or not (shutil.which("dockerd") and shutil.which("unshare")):
        pytest.skip("a private dockerd needs root and the dockerd program")
    root = Path("/tmp") / f"qwend-{os.getpid()}"  # a socket's path must be short
    root.mkdir()
    made = PrivateEngine(root)
    made.start()
    with contextlib.closing(made.client()) as client:
        made.image = small_image(client)
    yield made
    with contextlib.closing(made.client()) as client:
        for container in client.containers(all=True):
            client.remove_container(container["Id"], force=True)
    made.end()


@pytest.fixture
def collected() -> Iterator[None]:
    """The `docker` package leaves the socket of a failed connection to the garbage collector."""
    yield
    gc.collect()


@pytest.mark.docker
@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore:unclosed .socket:ResourceWarning")  # whenever the collector comes by
async def test_an_engine_that_is_killed_and_comes_back_is_reconciled_by_label(
    private_engine: PrivateEngine, make_order: MakeOrder, instance: str, tmp_path: Path
) -> None:
    connection = Connection({"DOCKER_HOST": private_engine.address})
    runtime = DockerRuntime(instance, connection, tmp_path / "secrets")
    image = private_engine.image
    service = make_order("sh", "-c", "while :; do echo tick; sleep 0.1; done", step="chat", image=image)
    job = make_order(
        "sh", "-c", "until [ -e /out/go ]; do sleep 0.1; done; exit 5", step="quant", image=image
    )
    handles = [await runtime.start(order) for order in (service, job)]
    exits = runtime.exits()
    waiting = asyncio.ensure_future(anext(exits))
    await asyncio.sleep(0)

    private_engine.kill()
    with pytest.raises(Unreachable, match="does not answer"):
        await runtime.living()
    assert job.output is not None
    (Path(job.output) / "go").touch()
    await asyncio.to_thread(private_engine.start)

    ended = await asyncio.wait_for(waiting, 60)
    assert ended.marker == job.identity.marker
    living = await runtime.living()
    assert [handle.id for handle in living.values()] == [handles[0].id]
    assert (await runtime.start(service)).id == handles[0].id
    size = Path(service.log).stat().st_size
    async with asyncio.timeout(30):
        while Path(service.log).stat().st_size <= size:
            await asyncio.sleep(0.05)
    await runtime.stop(handles[0], 0.1)
    await runtime.close()


async def test_an_engine_that_cannot_make_images_is_told_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def there() -> bool:
        return True

    class Known(Connection):
        def __init__(self, podman: bool) -> None:
            super().__init__({})
            self._podman = podman

        async def engine(self) -> Engine:
            return Engine(version="4.3.1", rootless=False, podman=self._podman, gpus=False, limits=True)

    monkeypatch.setattr(readiness, "_has_buildx", there)
    own = Base("qwend-base:bookworm", None)
    assert await readiness.lacking(Known(podman=True), own) == "Podman has no BuildKit, which makes images"
    assert await readiness.lacking(Known(podman=False), own) is None
