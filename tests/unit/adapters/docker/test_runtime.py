"""The runtime on a real engine: hardening seen from inside, adoption, ends of every kind."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 (a test has its loop to itself)

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from qwend.adapters.docker import logs, mounts
from qwend.adapters.docker.connection import Refused
from qwend.adapters.docker.container import LOG_FILES
from qwend.adapters.docker.identity import container_name
from qwend.adapters.docker.runtime import DockerRuntime
from qwend.errors import StepFailed
from qwend.model.launch import InputRef, Launch, LaunchFile, OutputRef, SecretRef
from qwend.model.service import Exit

from .conftest import MakeOrder

pytestmark = pytest.mark.docker

SERVER = r"""
use IO::Socket::INET;
my $s = IO::Socket::INET->new(Listen => 5, LocalAddr => "0.0.0.0:$ARGV[0]", ReuseAddr => 1) or die $!;
while (my $c = $s->accept) { print $c "hello\n"; close $c; }
"""


async def next_exit(exits: AsyncIterator[Exit]) -> Exit:
    return await asyncio.wait_for(anext(exits), 60)


async def until(condition: Any) -> None:
    """Waits for what a container does in its own time."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


INSIDE = """
grep -E '^(Uid|CapEff|CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
for path in / /etc /usr /opt /var /in/base /opt/drivers; do
    if touch "$path/probe" 2>/dev/null; then echo "writable: $path"; fi
done
for path in /tmp /out /scratch; do touch "$path/probe" || echo "not writable: $path"; done
echo "interfaces: $(cut -d: -f1 -s /proc/net/dev | tr -d ' ' | tr '\\n' ' ')"
echo "memory: $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null)"
echo "pids: $(cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null)"
echo "init: $(cat /proc/1/comm)"
mount -t tmpfs none /tmp 2>/dev/null && echo "mounted"
chown 0 /out/probe 2>/dev/null && echo "chowned"
test -e /var/run/docker.sock && echo "socket"
echo done
"""


async def test_a_job_can_do_nothing_but_its_work(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    order = make_order(
        image=base,
        launch=Launch(argv=("sh", "-c", INSIDE), files=(LaunchFile("d", ""),)),
        inputs={"base": str(tmp_path / "model")},
        scratch=str(tmp_path / "scratch"),
        memory=256 << 20,
    )
    await runtime.start(order)
    ended = await next_exit(runtime.exits())
    seen = Path(order.log).read_text()
    assert ended.code == 0, seen
    facts = dict(line.split(":", 1) for line in seen.splitlines() if ":" in line)
    assert {int(facts[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert facts["NoNewPrivs"].strip() == "1"
    assert facts["Seccomp"].strip() == "2"
    assert set(facts["Uid"].split()) == {str(os.getuid() or 10001)}
    assert "writable:" not in seen.replace("not writable:", "")
    assert "not writable:" not in seen
    assert facts["interfaces"].split() == ["lo"]
    assert facts["memory"].strip() == str(256 << 20)
    assert facts["pids"].strip() == "4096"
    assert facts["init"].strip() in {"docker-init", "tini", "catatonit", "podman-init"}
    assert not {"mounted", "chowned", "socket"} & set(seen.splitlines())
    assert seen.splitlines()[-1] == "done"
    assert os.stat(f"{order.output}/probe").st_uid == os.getuid()


async def test_inputs_outputs_and_secrets_are_where_the_launch_says(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, tmp_path: Path, engine: Any
) -> None:
    (tmp_path / "text").write_text("hello")
    launch = Launch(
        argv=(
            "sh",
            "-c",
            'cat "$1" "$2" >"$3"',
            "sh",
            InputRef("text", "*"),
            SecretRef("key"),
            OutputRef("both"),
        ),
        secrets=("key",),
    )
    order = make_order(
        image=base, launch=launch, inputs={"text": str(tmp_path / "text")}, secrets={"key": "canary-7"}
    )
    handle = await runtime.start(order)
    described = json.dumps(engine.inspect_container(handle.id))
    ended = await next_exit(runtime.exits())
    assert ended.code == 0, Path(order.log).read_text()
    assert order.output is not None
    assert (Path(order.output) / "both").read_text() == "hellocanary-7"
    assert "canary-7" not in described
    await runtime.acknowledge(ended)
    assert not list((tmp_path / "secrets").iterdir())


async def test_exit_codes_and_words_are_told_until_they_are_acknowledged(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, engine: Any
) -> None:
    order = make_order("sh", "-c", "echo out; echo err >&2; exit 7", image=base)
    handle = await runtime.start(order)
    first = await next_exit(runtime.exits())
    [again] = await runtime.backlog()
    assert (first.marker, first.code) == (order.identity.marker, 7)
    assert again.code == 7
    assert sorted(Path(order.log).read_text().splitlines()) == ["err", "out"]
    assert (await runtime.start(order)).id == handle.id
    await runtime.acknowledge(first)
    assert not engine.containers(all=True, filters={"id": handle.id})
    assert await runtime.living() == {}
    assert await runtime.backlog() == []


async def test_an_end_is_told_though_the_folders_of_the_step_cannot_be_taken_back(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [make_order("sh", "-c", f"exit {code}", image=base, step=f"s{code}") for code in (3, 4)]
    for order in orders:
        await runtime.start(order)

    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(mounts, "hand_over", refused)
    exits = runtime.exits()
    told = {(await next_exit(exits)).code for _ in orders}
    assert told == {3, 4}


async def test_a_second_start_of_a_marker_that_lives_adopts_it(
    runtime: DockerRuntime, make_order: MakeOrder, base: str
) -> None:
    order = make_order("sleep", "600", image=base)
    first = await runtime.start(order)
    second = await runtime.start(order)
    assert first.id == second.id
    assert list(await runtime.living()) == [order.identity.marker]


async def test_a_polite_stop_uses_the_grace_and_does_not_kill(
    runtime: DockerRuntime, make_order: MakeOrder, base: str
) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    order = make_order("sh", "-c", script, image=base)
    handle = await runtime.start(order)
    await until(lambda: "up" in Path(order.log).read_text())
    assert await runtime.stop(handle, 30) is False
    ended = await next_exit(runtime.exits())
    assert (ended.code, ended.killed) == (0, False)
    assert Path(order.log).read_text() == "up\nbye\n"


async def test_a_step_that_ignores_the_signal_is_killed_with_its_whole_tree_and_it_is_said(
    runtime: DockerRuntime, make_order: MakeOrder, base: str
) -> None:
    script = "trap '' TERM; setsid sleep 600 & echo up; while :; do sleep 0.1; done"
    order = make_order("sh", "-c", script, image=base)
    handle = await runtime.start(order)
    await until(lambda: "up" in Path(order.log).read_text())
    assert handle.pid is not None
    space = os.readlink(f"/proc/{handle.pid}/ns/pid") if os.geteuid() == 0 else None
    assert await runtime.stop(handle, 0.3) is True
    ended = await next_exit(runtime.exits())
    assert (ended.code, ended.signal, ended.killed) == (None, 9, True)
    if space is not None:
        left = [pid for pid in os.listdir("/proc") if pid.isdigit() and _pid_space(pid) == space]
        assert left == []


def _pid_space(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


async def test_stopping_what_is_gone_is_no_error(
    runtime: DockerRuntime, make_order: MakeOrder, base: str
) -> None:
    order = make_order("true", image=base)
    handle = await runtime.start(order)
    ended = await next_exit(runtime.exits())
    assert await runtime.stop(handle, 1) is False
    await runtime.acknowledge(ended)
    assert await runtime.stop(handle, 1) is False


async def test_a_step_that_is_killed_for_memory_is_named_with_its_limit(
    runtime: DockerRuntime, make_order: MakeOrder, base: str
) -> None:
    hungry = "my @kept; push @kept, 'x' x (8 << 20) for 1..1000;"
    order = make_order("perl", "-e", hungry, image=base, memory=64 << 20)
    await runtime.start(order)
    ended = await next_exit(runtime.exits())
    assert ended.oom
    assert ended.peak == 64 << 20
    assert ended.describe().startswith("killed for memory")


async def test_a_service_answers_on_the_loopback_port_that_the_engine_holds_for_it(
    runtime: DockerRuntime, make_order: MakeOrder, base: str
) -> None:
    port = _free_port()
    order = make_order("perl", "-e", SERVER, str(port), image=base, port=port, service=True)
    handle = await runtime.start(order)
    assert await runtime.listens(handle, port)
    assert not await runtime.listens(handle, port + 1)
    assert await _answer(port) == b"hello\n"
    await runtime.stop(handle, 0.1)
    assert not await runtime.listens(handle, port)


CALLER = r"""
use IO::Socket::INET;
my ($port, $address, $patience) = @ARGV;
my $s = IO::Socket::INET->new(Listen => 5, LocalAddr => "0.0.0.0:$port", ReuseAddr => 1) or die $!;
while (my $caller = $s->accept) {
    my $out = IO::Socket::INET->new(PeerAddr => $address, PeerPort => 9, Timeout => $patience);
    my $word = $out ? readline($out) : "nothing\n";
    print $caller $word;
    close $caller;
}
"""
"""Says to whoever calls what it hears from another machine."""


@pytest.fixture
def beyond() -> Iterator[str]:
    """The address of another machine: a network namespace behind a cable, in which somebody answers on port 9. It
    knows a way back to this machine and to no container."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a second machine is a network namespace: needs root and iproute2")
    name, number = f"qw{os.getpid()}", os.getpid() % 16384 * 4  # a /30 of 198.18.0.0/16 of one's own
    near, far = (f"198.18.{number >> 8}.{(number & 255) + end}" for end in (1, 2))
    answer = "s = __import__('socket').create_server(('0.0.0.0', 9))\nprint(flush=True)\n"
    answer += "while True:\n    c, _ = s.accept()\n    c.sendall(b'beyond\\n')\n    c.close()"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"a second machine is a network namespace, and none is to be had: {made.stderr.strip()}")
    for command in (
        f"ip link add {name}a type veth peer name {name}b netns {name}",
        f"ip address add {near}/30 dev {name}a",
        f"ip link set {name}a up",
        f"ip -n {name} address add {far}/30 dev {name}b",
        f"ip -n {name} link set {name}b up",
    ):
        subprocess.run(command.split(), check=True)
    there = subprocess.Popen(
        ["ip", "netns", "exec", name, sys.executable, "-c", answer], stdout=subprocess.PIPE
    )
    try:
        assert there.stdout is not None
        assert there.stdout.readline() == b"\n"
        yield far
    finally:
        there.kill()
        there.communicate()
        subprocess.run(["ip", "link", "delete", f"{name}a"], check=True)
        subprocess.run(["ip", "netns", "delete", name], check=True)


async def test_a_service_without_network_is_reached_and_reaches_nobody_beyond_this_machine(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, beyond: str
) -> None:
    heard = {}
    for network, patience in ((True, 60), (False, 3)):
        port = _free_port()
        launch = Launch(argv=("perl", "-e", CALLER, str(port), beyond, str(patience)), network=network)
        order = make_order(launch=launch, image=base, port=port, service=True, step=f"s{network}".lower())
        handle = await runtime.start(order)
        heard[network] = await _answer(port)
        await runtime.stop(handle, 0.1)
    assert heard == {True: b"beyond\n", False: b"nothing\n"}


async def test_a_taken_port_is_told_as_that(runtime: DockerRuntime, make_order: MakeOrder, base: str) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        order = make_order("sleep", "600", image=base, port=port, service=True)
        with pytest.raises(StepFailed, match=f"port {port} is taken") as caught:
            await runtime.start(order)
    assert caught.value.code == "port-taken"
    assert await runtime.living() == {}


async def test_a_name_that_was_removed_a_moment_ago_and_is_still_taken_is_waited_for(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = make_order("sleep", "600", image=base)
    other = engine.create_container(base, ["true"], name=container_name(order.identity))["Id"]
    connection = runtime._containers.connection
    call = connection.call

    async def called(work: Any) -> Any:
        """The name comes free once the engine has said that it is taken."""
        try:
            return await call(work)
        except Refused as error:
            if error.status == 409:
                await asyncio.to_thread(engine.remove_container, other, force=True)
                conflicts.append(error)
            raise

    conflicts: list[Refused] = []
    monkeypatch.setattr(connection, "call", called)
    try:
        handle = await runtime.start(order)
    finally:
        if not conflicts:
            engine.remove_container(other, force=True)
    assert len(conflicts) == 1
    assert list(await runtime.living()) == [handle.marker]


async def test_a_program_that_the_image_lacks_fails_at_once_with_its_name_in_the_log(
    runtime: DockerRuntime, make_order: MakeOrder, base: str
) -> None:
    order = make_order("no-such-program", image=base)
    await runtime.start(order)
    ended = await next_exit(runtime.exits())
    assert ended.code == 127
    assert "no-such-program" in Path(order.log).read_text()


async def test_a_start_that_the_engine_refuses_leaves_nothing(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, engine: Any, instance: str, tmp_path: Path
) -> None:
    launch = Launch(argv=("true",), secrets=("key",))
    order = make_order(image=base, launch=launch, secrets={"key": "x"}, memory=1)
    with pytest.raises(StepFailed, match="refused to start the step"):
        await runtime.start(order)
    assert not engine.containers(all=True, filters={"label": f"org.qwend.instance={instance}"})
    assert not list((tmp_path / "secrets").iterdir())
    assert order.output is not None
    assert os.stat(order.output).st_uid == os.getuid()


async def test_an_image_that_is_gone_is_an_error(
    runtime: DockerRuntime, make_order: MakeOrder, engine: Any
) -> None:
    with pytest.raises(StepFailed, match="removed from the engine"):
        await runtime.start(make_order("true", image="sha256:" + "0" * 64))


HOLDER = """
import asyncio, json, sys
from pathlib import Path
import msgspec
from qwend.adapters.docker.runtime import DockerRuntime
from qwend.effects import Order

async def main():
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Order])
    runtime = DockerRuntime(orders[0].identity.instance, secrets_root=Path(sys.argv[1]))
    print(json.dumps([(await runtime.start(order)).id for order in orders]), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_after_kill_9_of_the_holder_services_are_adopted_and_a_jobs_end_is_found(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, tmp_path: Path
) -> None:
    import msgspec

    service = make_order("sh", "-c", "while :; do echo tick; sleep 0.1; done", step="chat", image=base)
    job = make_order(
        "sh", "-c", "while [ ! -e /out/go ]; do sleep 0.1; done; exit 5", step="quant", image=base
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "secrets")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(msgspec.json.encode([service, job]))
    holder.stdin.close()
    ids = json.loads(await asyncio.to_thread(holder.stdout.readline))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert job.output is not None
    (Path(job.output) / "go").touch()

    ended = await next_exit(runtime.exits())
    assert (ended.marker, ended.code) == (job.identity.marker, 5)
    living = await runtime.living()
    assert {marker: handle.id for marker, handle in living.items()} == {service.identity.marker: ids[0]}
    before = Path(service.log).stat().st_size
    await until(lambda: Path(service.log).stat().st_size > before)
    assert (await runtime.start(service)).id == ids[0]


async def test_what_was_created_and_never_started_is_cleared_away(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, engine: Any, instance: str
) -> None:
    engine.create_container(base, ["true"], labels={"org.qwend.instance": instance, "org.qwend.marker": "m"})
    assert await runtime.living() == {}
    assert not engine.containers(all=True, filters={"label": f"org.qwend.instance={instance}"})


async def test_a_container_that_a_stranger_removed_is_told_as_lost(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, engine: Any
) -> None:
    order = make_order("sleep", "600", image=base)
    handle = await runtime.start(order)
    waiting = asyncio.ensure_future(next_exit(runtime.exits()))
    await asyncio.to_thread(engine.remove_container, handle.id, force=True)
    ended = await waiting
    assert ended.marker == order.identity.marker
    assert ended.lost or ended.signal == 9


async def test_output_without_end_is_bounded_and_never_blocks_the_step(
    runtime: DockerRuntime, make_order: MakeOrder, base: str
) -> None:
    flood = 'my $l = "x" x 999 . "\\n"; print $l for 1..60_000; print "last\\n";'
    order = make_order("perl", "-e", flood, image=base)
    await runtime.start(order)
    ended = await next_exit(runtime.exits())
    assert ended.code == 0
    assert Path(order.log).stat().st_size <= 16 << 20
    assert Path(order.log).read_bytes().endswith(b"\nlast\n")


async def test_the_end_of_a_flood_is_copied_though_the_engine_rotated_its_log_under_its_own_stream(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small files are rotated faster than an older engine looks: of eight streams one or another falls silent."""
    monkeypatch.setitem(LOG_FILES, "max-size", "64k")
    monkeypatch.setattr(logs, "_SILENT_S", 0.5)
    flood = '$| = 1; my $l = "x" x 999 . "\\n"; print $l for 1..5_000; print "last\\n"; sleep 600;'
    orders = [make_order("perl", "-e", flood, image=base, step=f"s{number}") for number in range(8)]
    watching = asyncio.ensure_future(anext(runtime.exits()))  # none comes; it looks around as the daemon does
    for order in orders:
        await runtime.start(order)
    for order in orders:
        log = Path(order.log)
        await until(lambda log=log: log.exists() and log.read_bytes().endswith(b"\nlast\n"))
    watching.cancel()


async def test_the_stream_of_exits_ends_when_the_runtime_is_closed(
    runtime: DockerRuntime, make_order: MakeOrder, base: str
) -> None:
    await runtime.start(make_order("true", image=base))
    exits = runtime.exits()
    await next_exit(exits)
    waiting = asyncio.ensure_future(anext(exits, None))
    await asyncio.sleep(0)
    await runtime.close()
    assert await asyncio.wait_for(waiting, 30) is None


async def test_instances_do_not_see_one_another(
    runtime: DockerRuntime, make_order: MakeOrder, base: str, tmp_path: Path
) -> None:
    order = make_order("sleep", "600", image=base)
    await runtime.start(order)
    other = DockerRuntime("another", secrets_root=tmp_path / "other")
    try:
        assert await other.living() == {}
    finally:
        await other.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answer(port: int) -> bytes:
    async with asyncio.timeout(90):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                line = await reader.readline()
                writer.close()
                await writer.wait_closed()
                if line:
                    return line
            except OSError:
                pass
            await asyncio.sleep(0.05)
