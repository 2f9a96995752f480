"""What a spawned process gets, and what it does not. With a real supervisord and real processes."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from tests.unit.adapters.native.kit import (
    Bell,
    command_of,
    contents_of,
    environment_of,
    exit_of,
    marker,
    python,
    request,
)

from qwend.adapters.native.data import secret_paths
from qwend.adapters.native.identity import identity_of
from qwend.adapters.native.rpc import RpcError, call
from qwend.adapters.native.supervisor import NativeSupervisor
from qwend.errors import StepFailed

pytestmark = pytest.mark.native


async def test_a_spawned_process_runs_its_program_when_it_is_told(
    native: NativeSupervisor, folder: Path
) -> None:
    spawned = await native.spawn(request(folder, "sleep", "1000"))
    identity = spawned.identity
    assert identity == identity_of(identity.pid)
    assert command_of(identity.pid) == ["sleep", "1000"]
    assert environment_of(identity.pid) == {
        "PATH": os.defpath,
        "QWEND_MARKER": marker(),
        "SPT_NOENV": "1",
    }
    assert await native.alive(marker())
    assert not await native.alive(marker("other"))


async def test_a_process_holds_no_descriptor_but_its_own(native: NativeSupervisor, folder: Path) -> None:
    code = "import os; print(sorted(os.listdir('/dev/fd'))[:-1])"
    await native.spawn(request(folder, *python(code)))
    await exit_of(native, marker())
    assert (folder / "step.log").read_text() == "['0', '1', '2']\n"


async def test_a_marker_starts_once(native: NativeSupervisor, folder: Path) -> None:
    wanted = request(folder, "sleep", "1000")
    first, second = await asyncio.gather(native.spawn(wanted), native.spawn(wanted))
    assert first.identity == second.identity
    assert sorted([first.again, second.again]) == [False, True]
    assert len(await native.processes()) == 1


async def test_a_marker_that_has_ended_does_not_start_again(native: NativeSupervisor, folder: Path) -> None:
    await native.spawn(request(folder, "true"))
    record = await exit_of(native, marker())
    with pytest.raises(StepFailed, match="was started before and has ended") as failure:
        await native.spawn(request(folder, "true"))
    assert failure.value.code == "ended"
    await native.acknowledge(record)
    await native.spawn(request(folder, "true", generation=2))


async def test_a_marker_of_another_instance_is_refused(native: NativeSupervisor, folder: Path) -> None:
    with pytest.raises(ValueError, match="not of the instance"):
        await native.spawn(request(folder, "true", marker="other:01RUN:r/s:1"))


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (
            {"argv": ("no-such-tool",)},
            "cannot-start-program",
            "cannot run no-such-tool: it is not on its PATH",
        ),
        ({"cwd": Path("/no/such")}, "cannot-start-folder", "cannot enter the working folder /no/such"),
        ({"log": Path("/no/such/log")}, "cannot-start-log", "cannot open the log /no/such/log"),
    ],
)
async def test_what_cannot_start_is_told_in_one_line(
    native: NativeSupervisor, folder: Path, more: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(StepFailed, match=said) as failure:
        await native.spawn(request(folder, "true", **more))
    assert failure.value.code == code
    assert await native.processes() == ()


async def test_secrets_reach_the_process_and_nothing_else(native: NativeSupervisor, folder: Path) -> None:
    bell = Bell(folder)
    paths = secret_paths(["token", "api_key"])
    assert paths == {"api_key": "/dev/fd/3", "token": "/dev/fd/4"}
    count = f"test $(cat {paths['api_key']} {paths['token']} | wc -c) = 16"
    code = f"{count} && echo right >{bell.path}; exec sleep 1000"
    secrets = {"token": "canary-2", "api_key": "canary-1"}
    wanted = request(folder, "sh", "-c", code, secrets=secrets, stdin=b"canary-3")
    spawned = await native.spawn(wanted)
    assert await bell.heard() == "right"
    with pytest.raises(StepFailed):
        await native.spawn(request(folder, "/no/such", step="b", secrets=secrets, stdin=b"canary-3"))
    with pytest.raises(RpcError):
        await call(native.places.socket, "spawn", {"secrets": ["canary-4"], "marker": marker("c")})
    pid = spawned.identity.pid
    assert "canary" not in repr((environment_of(pid), command_of(pid), wanted))
    assert b"canary" not in contents_of(folder)


async def test_limits_reach_the_process(native: NativeSupervisor, folder: Path) -> None:
    from qwend.adapters.native.data import Limits

    limits = Limits(nofile=77, address_space=1 << 33)
    spawned = await native.spawn(request(folder, "sleep", "1000", limits=limits))
    of = spawned.identity.pid
    assert resource.prlimit(of, resource.RLIMIT_NOFILE)[0] == 77
    assert resource.prlimit(of, resource.RLIMIT_AS)[0] == 1 << 33
    assert resource.prlimit(of, resource.RLIMIT_CORE)[0] == 0
