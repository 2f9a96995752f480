"""A port has one holder, keeps to it, and a port that is taken names who has it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwend.adapters.listeners import (
    Listener,
    ephemeral_range,
    is_free,
    parse_lsof,
    parse_tcp,
    who_listens,
)
from qwend.adapters.state import SqliteState
from qwend.errors import OutOfResource, UsageError
from qwend.setting_values import PORT_RANGE


@contextlib.contextmanager
def stranger(address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Somebody else's server, which sets SO_REUSEADDR as servers do."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError:
            pytest.skip(f"cannot listen on {address} here")
        listener.listen(1)
        yield int(listener.getsockname()[1])


@pytest.fixture
def ports() -> tuple[int, int]:
    """Three free ports in a row, out of the way of others who test on this machine."""
    for first in range(21000 + os.getpid() % 1000 * 8, 32000, 8):
        if all(is_free(port) for port in range(first, first + 3)):
            return first, first + 2
    raise AssertionError("no free ports")


async def opened(folder: Path, ports: tuple[int, int]) -> SqliteState:
    return await SqliteState.open(str(folder / "state.db"), port_range=ports)


async def test_a_service_keeps_its_port_over_stops_and_restarts_of_everything(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    state = await opened(tmp_path, ports)
    first = await state.lease_port("r/a", None)
    assert (first.kind, first.name, first.holder, first.sticky) == ("port", str(ports[0]), "r/a", True)
    assert await state.lease_port("r/a", None) == first
    await state.release("r/a")
    assert state.rows("lease")["r/a"] == {"port": ports[0], "holder": "r/a", "sticky": True, "active": False}
    assert (await state.lease_port("r/b", None)).name == str(ports[0] + 1)
    await state.close()
    state = await opened(tmp_path, ports)
    assert await state.lease_port("r/a", None) == first
    assert [event.kind for event in state.events(recipe="r")] == [
        "lease.taken",
        "lease.released",
        "lease.taken",
        "lease.taken",
    ]
    assert state.replay() == {"lease": state.rows("lease")}
    await state.close()


async def test_ports_that_outgoing_connections_may_take_come_last(
    tmp_path: Path, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwend.adapters.ports.ephemeral_range", lambda: (ports[0], ports[0] + 1))
    state = await opened(tmp_path, ports)
    given = [int((await state.lease_port(f"r/{name}", None)).name) for name in "abc"]
    assert given == [ports[1], ports[0], ports[0] + 1]
    await state.close()


async def test_a_port_that_is_given_up_is_free_for_anybody(tmp_path: Path, ports: tuple[int, int]) -> None:
    state = await opened(tmp_path, ports)
    await state.lease_port("r/a", None)
    await state.release("r/a", sticky=True)
    await state.release("r/a", sticky=True)
    assert state.rows("lease") == {}
    assert (await state.lease_port("r/b", None)).name == str(ports[0])
    await state.close()


async def test_a_port_that_a_stranger_took_is_passed_over(tmp_path: Path, ports: tuple[int, int]) -> None:
    state = await opened(tmp_path, ports)
    with stranger("127.0.0.1", ports[0]):
        assert (await state.lease_port("r/a", None)).name == str(ports[0] + 1)
        again = await state.lease_port("r/a", None, avoid=[ports[0] + 1])
        assert again.name == str(ports[0] + 2)
    await state.close()


async def test_a_kept_port_that_was_taken_in_between_is_changed(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    state = await opened(tmp_path, ports)
    await state.lease_port("r/a", None)
    await state.release("r/a")
    with stranger("127.0.0.1", ports[0]):
        assert (await state.lease_port("r/a", None)).name == str(ports[0] + 1)
    await state.close()


async def test_an_active_port_is_not_tried_since_its_own_service_listens_there(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    state = await opened(tmp_path, ports)
    await state.lease_port("r/a", None)
    with stranger("127.0.0.1", ports[0]):
        assert (await state.lease_port("r/a", None)).name == str(ports[0])
        assert (await state.lease_port("r/a", ports[0])).name == str(ports[0])
        described = state.describe()
    assert described["leases"] == [
        {"port": ports[0], "holder": "r/a", "sticky": True, "active": True, "listening": True}
    ]
    assert described["range"] == list(ports)
    assert not state.describe()["leases"][0]["listening"]
    await state.close()


async def test_a_fixed_port_of_another_step_names_the_step(tmp_path: Path, ports: tuple[int, int]) -> None:
    state = await opened(tmp_path, ports)
    await state.lease_port("r/a", ports[1])
    with pytest.raises(OutOfResource, match=f"port {ports[1]} is held by r/a"):
        await state.lease_port("q/b", ports[1])
    await state.release("r/a")
    assert (await state.lease_port("q/b", ports[1])).holder == "q/b"
    assert list(state.rows("lease")) == ["q/b"]
    await state.close()


async def test_a_fixed_port_of_a_stranger_names_its_program_and_pid(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    code = (
        "import socket, sys\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "s.bind(('127.0.0.1', int(sys.argv[1])))\ns.listen()\nprint('up', flush=True)\nsys.stdin.read()\n"
    )
    state = await opened(tmp_path, ports)
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(ports[0]), stdin=pipe, stdout=pipe
    )
    assert other.stdout is not None
    assert await other.stdout.readline() == b"up\n"
    with pytest.raises(OutOfResource, match=rf"port {ports[0]} is taken by \S+ \(pid {other.pid}\)"):
        await state.lease_port("r/a", ports[0])
    await other.communicate(b"")
    assert (await state.lease_port("r/a", ports[0])).name == str(ports[0])
    await state.close()


async def test_a_used_up_range_takes_kept_ports_first_and_then_says_so(
    tmp_path: Path, ports: tuple[int, int]
) -> None:
    state = await opened(tmp_path, ports)
    for name in "abc":
        await state.lease_port(f"r/{name}", None)
    await state.release("r/b")
    assert (await state.lease_port("r/d", None)).name == str(ports[0] + 1)
    with pytest.raises(OutOfResource, match=r"no port of \d+-\d+ is free: 3 are leased") as caught:
        await state.lease_port("r/e", None)
    assert caught.value.exit_code == 5
    assert sorted(state.rows("lease")) == ["r/a", "r/c", "r/d"]
    await state.close()


@pytest.mark.parametrize("number", [0, -1, 65536])
async def test_a_number_that_is_no_port_is_refused(
    tmp_path: Path, ports: tuple[int, int], number: int
) -> None:
    state = await opened(tmp_path, ports)
    with pytest.raises(UsageError, match="is not a port"):
        await state.lease_port("r/a", number)
    await state.close()


def lease_many(path: str, names: list[str], found: dict[str, str]) -> None:
    async def main() -> None:
        state = await SqliteState.open(path)
        leases = await asyncio.gather(*(state.lease_port(name, None) for name in names))
        found.update({lease.holder: lease.name for lease in leases})
        await state.close()

    asyncio.run(main())


def test_two_states_in_two_threads_never_lease_one_port_twice(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    lease_many(path, [], {})
    found: dict[str, str] = {}
    threads = [
        threading.Thread(
            target=lease_many, args=(path, [f"r{turn}/s{number}" for number in range(25)], found)
        )
        for turn in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 50
    assert len(set(found.values())) == 50


def test_the_default_range_is_no_ephemeral_one() -> None:
    for first, last in ((32768, 60999), (49152, 65535)):
        assert not first <= PORT_RANGE[0] <= last
        assert not first <= PORT_RANGE[1] <= last
    assert ephemeral_range()[0] > 1023


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_server_on_any_address_keeps_the_port(address: str) -> None:
    with stranger(address) as port:
        assert not is_free(port)
    assert is_free(port)


def test_a_connection_that_lingers_does_not_keep_the_port() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # who closes first stays behind in TIME_WAIT
            assert client.recv(1) == b""
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("127.0.0.1", port))
    assert is_free(port)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_our_own_listener_is_found_in_proc() -> None:
    with stranger("::1") as port:
        found = who_listens(port)
        assert found is not None
        assert found.pid == os.getpid()
        assert found.uid == os.getuid()
    assert who_listens(port) is None


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:46B4 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 48213 1 0000000000000000
   1: 0100007F:46B4 0100007F:A2C4 01 00000000:00000000 00:00000000 00000000  1000        0 48299 1 0000000000000000
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17021 1 0000000000000000
"""


def test_recorded_tables_of_other_machines_are_read() -> None:
    assert parse_tcp(TCP, 18100) == [(48213, 1000)]
    assert parse_tcp(TCP, 22) == [(17021, 0)]
    assert parse_tcp("", 22) == []
    assert parse_lsof("p812\ncnginx\nu501\np813\ncother\nu0\n") == Listener(501, 812, "nginx")
    assert parse_lsof("") is None
    assert Listener(33, None, None).describe() == "a program of uid 33"
    assert Listener(33, 812, "evil\x1b[2J").describe() == "evil\\x1b[2J (pid 812)"
