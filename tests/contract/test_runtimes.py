"""What the reconciler counts on in a runtime, asked of every one of them: real processes, real containers."""

# ruff: noqa: ASYNC110, ASYNC240 (a test has its loop to itself)

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import local_base

from qwend.adapters.docker.connection import Connection
from qwend.adapters.docker.identity import INSTANCE
from qwend.adapters.docker.runtime import DockerRuntime
from qwend.adapters.native.runtime import NativeRuntime
from qwend.effects import Order, Realised, Runtime
from qwend.errors import StepFailed
from qwend.model.launch import BindRef, Launch, OutputRef, PortRef, SecretRef
from qwend.model.service import Exit, Handle, Identity

PATIENCE_S = 60.0
READY = "echo ready; "

SERVER = """
use IO::Socket::INET;
my ($address, $port) = @ARGV;
my $socket = IO::Socket::INET->new(Listen => 5, LocalAddr => $address, LocalPort => $port, ReuseAddr => 1) or die $!;
$| = 1;
print "ready\\n";
while (my $caller = $socket->accept) { close $caller; }
"""


class Bench:
    """One runtime under test: orders for it, and what it does with them. A second object of the same instance is the
    next daemon's."""

    def __init__(self, folder: Path, image: Realised, make: Callable[[], Runtime], instance: str) -> None:
        self.folder = folder
        self.image = image
        self.instance = instance
        self._make = make
        self.runtime = make()
        self._exits: AsyncIterator[Exit] | None = None

    def order(self, *argv: Any, step: str = "step", **more: Any) -> Order:
        home = self.folder / step
        (home / "out").mkdir(parents=True, exist_ok=True)
        identity = Identity(
            instance=self.instance,
            run="01J0000000000000000000000",
            recipe="recipe",
            step=step,
            fingerprint="f" * 64,
            generation=1,
        )
        fields: dict[str, Any] = {
            "identity": identity,
            "launch": Launch(argv=argv),
            "image": self.image,
            "inputs": {},
            "log": str(home / "log"),
            "report": str(home / "report.jsonl"),
            "work": str(home),
            "output": str(home / "out"),
        }
        return Order(**{**fields, **more})

    async def start(self, order: Order, until: str = "") -> Handle:
        """Starts a step, and waits until its log says so."""
        handle = await self.runtime.start(order)
        if until:
            await self.until(lambda: until in said(order))
        return handle

    async def ended(self, order: Order) -> Exit:
        """How a step ended, once it has."""
        if self._exits is None:
            self._exits = self.runtime.exits()
        async with asyncio.timeout(PATIENCE_S):
            async for ended in self._exits:
                if ended.marker == order.identity.marker:
                    return ended
        raise AssertionError("exits never end")

    async def another_daemon(self) -> None:
        """The daemon is gone without a word, and the next one looks around."""
        await self.leave()
        self.runtime = self._make()
        await self.runtime.living()

    async def leave(self) -> None:
        await self.runtime.close()
        self._exits = None

    async def until(self, there: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not there():
                await asyncio.sleep(0.02)

    async def clear(self) -> None:
        """Ends and forgets everything of this instance."""
        for handle in (await self.runtime.living()).values():
            await self.runtime.stop(handle, 0)
        for ended in await self.runtime.backlog():
            await self.runtime.acknowledge(ended)
        await self.leave()


@pytest.fixture(
    params=[
        pytest.param("native", marks=pytest.mark.native),
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("podman", marks=pytest.mark.docker),  # whose base image it is given
    ]
)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="qwend-c-"))  # short: sockets lie in it
    folder.chmod(0o755)
    instance = "contract-" + secrets.token_hex(6)
    address = request.getfixturevalue("podman") if request.param == "podman" else None
    made = native(folder, instance) if request.param == "native" else docker(folder, instance, address)
    await made.runtime.living()
    yield made
    await made.clear()
    if request.param != "native":
        assert containers(instance, address) == []
    shutil.rmtree(folder)


def native(folder: Path, instance: str) -> Bench:
    home = folder / "home"
    home.mkdir(mode=0o700)
    (folder / "image" / "bin").mkdir(parents=True)
    image = Realised(key="none", kind="venv", location=str(folder / "image"), digest="0" * 64)
    return Bench(folder, image, lambda: NativeRuntime(home, instance), instance)


def docker(folder: Path, instance: str, address: str | None) -> Bench:
    """The engine that the machine has, or the one at `address`."""
    base = local_base()
    if base is None:
        pytest.skip("docker: the engine has no local base image (images/make-base makes it)")
    image = Realised(
        key="none", kind="oci", location=base[1] if address is None else base[0], digest="0" * 64
    )

    def make() -> DockerRuntime:
        connection = Connection({"DOCKER_HOST": address}) if address else None
        return DockerRuntime(instance, connection, secrets_root=folder / "secrets")

    return Bench(folder, image, make, instance)


@pytest.fixture(scope="session")
def podman() -> Iterator[str]:
    """The address of a Podman of our own, with an empty store but for the base image: its Docker-compatible socket."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed (Debian: podman catatonit)")
    base = local_base()
    if base is None:
        pytest.skip("docker: the engine has no local base image (images/make-base makes it)")
    folder = Path(tempfile.mkdtemp(prefix="qwend-p-"))
    command = ["podman"]
    for option, name in (
        ("root", "root"),
        ("runroot", "run"),
        ("tmpdir", "tmp"),
        ("network-config-dir", "networks"),
    ):
        (folder / name).mkdir()
        command += [f"--{option}", str(folder / name)]
    with subprocess.Popen(["docker", "save", base[0]], stdout=subprocess.PIPE) as saving:
        loaded = subprocess.run(
            [*command, "load"], stdin=saving.stdout, capture_output=True, text=True, check=False
        )
    address = f"unix://{folder}/podman.sock"
    with (folder / "log").open("wb") as log:
        service = subprocess.Popen(
            [*command, "system", "service", "--time=0", address], stdout=log, stderr=log
        )
    try:
        began = time.monotonic()
        while not (folder / "podman.sock").exists() and service.poll() is None:
            assert time.monotonic() < began + PATIENCE_S
            time.sleep(0.05)
        tried = subprocess.run(
            [*command, "run", "--rm", "--network=none", "--init", "--ulimit=nofile=1024", "--ulimit=nproc=1024",
             base[0], "true"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if tried.returncode != 0:
            pytest.skip(f"podman starts no container here: {loaded.stderr[-200:]} {tried.stderr[-300:]}")
        yield address
    finally:
        service.terminate()
        service.wait(PATIENCE_S)
        subprocess.run([*command, "rmi", "--all", "--force"], capture_output=True, check=False)
        subprocess.run(["umount", "-q", str(folder / "root" / "overlay")], capture_output=True, check=False)
        shutil.rmtree(folder)


def containers(instance: str, address: str | None) -> list[str]:
    command = ["docker", "ps", "-aq", "--filter", f"label={INSTANCE}={instance}"]
    environ = os.environ if address is None else {**os.environ, "DOCKER_HOST": address}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout.split()


def said(order: Order) -> str:
    log = Path(order.log)
    return log.read_text() if log.exists() else ""


async def test_output_is_in_the_log_and_the_exit_is_told_until_it_is_acknowledged(bench: Bench) -> None:
    order = bench.order("sh", "-c", "echo out; echo err >&2; exit 7")
    await bench.start(order)
    ended = await bench.ended(order)
    assert (ended.code, ended.signal, ended.lost) == (7, None, False)
    assert sorted(said(order).splitlines()) == ["err", "out"]
    assert [again.code for again in await bench.runtime.backlog()] == [7]
    await bench.runtime.acknowledge(ended)
    assert await bench.runtime.backlog() == []
    assert await bench.runtime.living() == {}


async def test_an_end_by_a_signal_is_named(bench: Bench) -> None:
    order = bench.order("sh", "-c", "kill -SEGV $$")
    await bench.start(order)
    ended = await bench.ended(order)
    assert (ended.code, ended.signal) == (None, 11)


async def test_who_ends_politely_within_the_grace_is_not_killed(bench: Bench) -> None:
    order = bench.order("sh", "-c", f"trap 'echo bye; exit 0' TERM; {READY} while :; do sleep 0.05; done")
    handle = await bench.start(order, until="ready")
    assert await bench.runtime.stop(handle, PATIENCE_S) is False
    assert (await bench.ended(order)).code == 0
    assert said(order).splitlines()[-1] == "bye"


async def test_who_ignores_sigterm_is_killed_at_the_end_of_the_grace(bench: Bench) -> None:
    order = bench.order("sh", "-c", f"trap '' TERM; {READY} while :; do sleep 0.05; done")
    handle = await bench.start(order, until="ready")
    assert await bench.runtime.stop(handle, 0.2) is True
    assert (await bench.ended(order)).signal == 9
    assert await bench.runtime.living() == {}


async def test_a_whole_tree_ends_with_its_step(bench: Bench) -> None:
    """The grandchild left its session, and holds a lock for as long as it lives."""
    holder = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
    order = bench.order("sh", "-c", 'cd "$0"; setsid flock -x lock sh -c "$1" & wait', OutputRef(), holder)
    handle = await bench.start(order, until="ready")
    assert not free(Path(order.output or "") / "lock")
    await bench.runtime.stop(handle, 0.2)
    assert free(Path(order.output or "") / "lock")


def free(path: Path) -> bool:
    """Whether nobody holds the lock of a file."""
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


async def test_starting_what_runs_already_gives_the_same_process(bench: Bench) -> None:
    order = bench.order("sh", "-c", f"{READY} exec sleep 1000")
    first = await bench.start(order, until="ready")
    again = await bench.runtime.start(order)
    assert again == first
    assert said(order).splitlines() == ["ready"]


async def test_what_runs_is_adopted_by_the_next_daemon_and_obeys_it(bench: Bench) -> None:
    order = bench.order("sh", "-c", f"{READY} while :; do sleep 0.05; done")
    handle = await bench.start(order, until="ready")
    await bench.another_daemon()
    assert await bench.runtime.living() == {order.identity.marker: handle}
    await bench.runtime.stop(handle, 0.2)
    assert (await bench.ended(order)).signal in {9, 15}


async def test_what_ended_while_no_daemon_watched_is_told_to_the_next_one(bench: Bench) -> None:
    script = 'echo ready; until [ -e "$0/go" ]; do sleep 0.05; done; echo last; touch "$0/gone"; exit 3'
    order = bench.order("sh", "-c", script, OutputRef())
    await bench.start(order, until="ready")
    await bench.leave()
    out = Path(order.output or "")
    (out / "go").touch()
    await bench.until((out / "gone").exists)
    await bench.another_daemon()
    ended = await bench.ended(order)
    assert ended.code == 3
    assert said(order).splitlines() == ["ready", "last"]
    await bench.runtime.acknowledge(ended)
    await bench.another_daemon()
    assert await bench.runtime.backlog() == []


async def test_reports_and_outputs_are_the_users_when_the_step_has_ended(bench: Bench) -> None:
    script = """echo '{"progress": 1}' >>"$QWEND_REPORT"; mkdir -p "$0/deep"; echo made >"$0/deep/file" """
    order = bench.order("sh", "-c", script, OutputRef())
    await bench.start(order)
    assert (await bench.ended(order)).code == 0, said(order)
    assert Path(order.report).read_text() == '{"progress": 1}\n'
    made = Path(order.output or "") / "deep" / "file"
    assert made.read_text() == "made\n"
    assert {path.stat().st_uid for path in (made, made.parent, made.parent.parent)} == {os.getuid()}


async def test_a_secret_is_a_file_for_the_step_and_in_no_environment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_DAEMON", "canary-1")
    launch = Launch(
        argv=("sh", "-c", 'env; printf "read %s\\n" "$(cat "$0")"', SecretRef("key")), secrets=("key",)
    )
    order = bench.order(launch=launch, secrets={"key": "canary-2"})
    await bench.start(order)
    ended = await bench.ended(order)
    assert ended.code == 0, said(order)
    await bench.runtime.acknowledge(ended)
    *environment, read = said(order).splitlines()
    assert read == "read canary-2"
    assert "canary" not in "\n".join(environment)
    left = [path for path in bench.folder.rglob("*") if path.is_file() and path != Path(order.log)]
    assert not [path for path in left if path.exists() and b"canary-2" in path.read_bytes()]


async def test_a_service_is_known_by_the_port_that_it_listens_on(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free_one:
        port = free_one.getsockname()[1]
    order = bench.order("perl", "-e", SERVER, BindRef(), PortRef(), port=port, service=True)
    handle = await bench.start(order, until="ready")
    await asyncio.to_thread(lambda: socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close())
    assert await bench.runtime.listens(handle, port) is True
    assert not await bench.runtime.listens(handle, port + 1)  # None: nobody does
    await bench.runtime.stop(handle, 5)
    assert not await bench.runtime.listens(handle, port)


async def test_a_program_that_is_not_there_is_named(bench: Bench) -> None:
    order = bench.order("no-such-program", "--help")
    try:
        await bench.start(order)
        ended = await bench.ended(order)
        assert ended.code not in {0, None}
        words = said(order)
    except StepFailed as error:
        words = error.message
    assert "no-such-program" in words


async def test_stopping_what_has_ended_is_no_error(bench: Bench) -> None:
    order = bench.order("true")
    handle = await bench.start(order)
    ended = await bench.ended(order)
    assert await bench.runtime.stop(handle, 1) is False
    await bench.runtime.acknowledge(ended)
    assert await bench.runtime.stop(handle, 1) is False
