"""supervisord comes, is found again, and leaves. With a real supervisord and real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from tests.unit.adapters.native.kit import (
    INSTANCE,
    Bell,
    end,
    environment_of,
    exit_of,
    kill,
    marker,
    request,
    until_gone,
)

from qwend.adapters.native import rpcinterface, supervisor, supervisord
from qwend.adapters.native.identity import identity_of, still_the_same
from qwend.adapters.native.places import Places
from qwend.adapters.native.supervisor import NativeSupervisor
from qwend.errors import Unreachable

pytestmark = pytest.mark.native


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_sockets_are_their_owner_s_alone(native: NativeSupervisor) -> None:
    places = native.places
    assert [mode(path) for path in (places.folder, places.socket, places.wake)] == [0o700, 0o600, 0o600]


async def test_ensuring_twice_changes_nothing(native: NativeSupervisor) -> None:
    first, second = await native.ensure(), await native.ensure()
    assert (first.pid, first.fresh) == (second.pid, second.fresh)
    assert not second.fresh


async def test_two_who_start_at_once_get_one_supervisord(folder: Path) -> None:
    natives = [NativeSupervisor(folder, INSTANCE) for _ in range(4)]
    found = await asyncio.gather(*(native.ensure() for native in natives))
    assert len({one.pid for one in found}) == 1
    assert [one.fresh for one in found].count(True) == 1
    for native in natives[1:]:
        await native.close()
    await end(natives[0])


async def test_supervisord_outlives_the_daemon_s_side_and_is_found_again(folder: Path) -> None:
    first = NativeSupervisor(folder, INSTANCE)
    served = await first.ensure()
    spawned = await first.spawn(request(folder, "sleep", "1000"))
    await first.close()
    second = NativeSupervisor(folder, INSTANCE)
    again = await second.ensure()
    assert (again.pid, again.fresh, again.lost) == (served.pid, False, ())
    assert [running.identity for running in await second.processes()] == [spawned.identity]
    await end(second)


async def test_supervisord_leads_a_session_and_knows_little_of_our_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    native = NativeSupervisor(folder, INSTANCE)
    pid = (await native.ensure()).pid
    assert os.getsid(pid) == pid
    assert "HF_TOKEN" not in environment_of(pid)
    await end(native)


async def test_a_home_with_a_long_and_odd_name_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    home = folder / "100% odd; [home] #1" / ("x" * 80)
    native = NativeSupervisor(home, INSTANCE)
    await native.spawn(request(folder, "true"))
    assert (await exit_of(native, marker())).code == 0
    await end(native)


async def test_a_supervisord_that_cannot_start_says_why(folder: Path) -> None:
    places = Places.of(folder)
    places.log.mkdir()  # its log cannot be opened
    native = NativeSupervisor(folder, INSTANCE)
    with pytest.raises(Unreachable, match=r"did not start: .*[Dd]irectory") as failure:
        await native.ensure()
    assert str(places.log) in (failure.value.hint or "")
    places.log.rmdir()
    assert (await native.ensure()).fresh
    await end(native)


async def test_a_stuck_supervisord_is_named_and_not_doubled(
    native: NativeSupervisor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_ANSWERS_WITHIN_S", 0.2)
    pid = (await native.ensure()).pid
    os.kill(pid, signal.SIGSTOP)
    other = NativeSupervisor(folder, INSTANCE)
    with pytest.raises(Unreachable, match=f"pid {pid}.*does not answer"):
        await other.ensure()
    await other.close()
    os.kill(pid, signal.SIGCONT)


async def test_an_older_supervisord_serves_on_until_it_is_empty(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = NativeSupervisor(folder, INSTANCE)
    old = await native.ensure()
    await native.spawn(request(folder, "sleep", "1000", step="a"))
    await native.close()

    monkeypatch.setattr(supervisor, "REVISION", "newer")
    newer = NativeSupervisor(folder, INSTANCE)
    kept = await newer.ensure()
    assert (kept.pid, kept.outdated, kept.fresh) == (old.pid, True, False)
    await newer.spawn(request(folder, "sleep", "1000", step="b"))
    assert {running.marker for running in await newer.processes()} == {marker("a"), marker("b")}
    await asyncio.gather(newer.stop(marker("a"), 5), newer.stop(marker("b"), 5))
    await asyncio.gather(exit_of(newer, marker("a")), exit_of(newer, marker("b")))
    assert (await newer.ensure()).pid != old.pid
    await end(newer)


async def test_a_supervisord_of_another_protocol_is_not_talked_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = NativeSupervisor(folder, INSTANCE)
    old = await native.ensure()
    await native.spawn(request(folder, "sleep", "1000"))
    await native.close()
    monkeypatch.setattr(supervisor, "REVISION", "newer")
    monkeypatch.setattr(supervisor, "PROTOCOL", 2)
    newer = NativeSupervisor(folder, INSTANCE)
    with pytest.raises(Unreachable, match="another version") as failure:
        await newer.ensure()
    assert failure.value.code == "supervisor-outdated"
    assert (await newer.stop(marker(), 5)).survivors == ()
    assert (await newer.ensure()).pid != old.pid
    await end(newer)


def test_both_sides_speak_one_protocol() -> None:
    assert supervisor.PROTOCOL == rpcinterface.PROTOCOL


async def test_supervisord_leaves_when_it_is_empty_and_not_before(
    native: NativeSupervisor, folder: Path
) -> None:
    pid = (await native.ensure()).pid
    await native.spawn(request(folder, "sleep", "1000"))
    assert not await native.shutdown_when_empty()
    await native.stop(marker(), grace_s=30)
    await asyncio.wait_for(native.lost(), 30)
    assert identity_of(pid) is None, "and it is no zombie of ours"
    assert not native.places.socket.exists()


async def test_a_daemon_that_comes_back_keeps_supervisord_beyond_the_last_step(
    native: NativeSupervisor, folder: Path
) -> None:
    pid = (await native.ensure()).pid
    await native.spawn(request(folder, "sleep", "1000"))
    assert not await native.shutdown_when_empty()  # the last word of the daemon before
    back = NativeSupervisor(folder, INSTANCE)
    await back.ensure()
    await back.stop(marker(), grace_s=30)
    assert (await exit_of(back, marker())).signal == 15
    assert (await back.spawn(request(folder, "true", generation=2))).marker == marker(generation=2)
    assert (await back.ensure()).pid == pid
    await back.close()


async def test_alone_and_empty_it_leaves_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisord, "ALONE_S", 0)
    native = NativeSupervisor(folder, INSTANCE)
    found = identity_of((await native.ensure()).pid)
    service = (await native.spawn(request(folder, "sleep", "1000"))).identity
    assert found is not None
    await native.close()
    assert still_the_same(found)
    kill(service.pid)
    await until_gone(found)


async def test_sighup_does_not_make_it_forget(native: NativeSupervisor, folder: Path) -> None:
    pid = (await native.ensure()).pid
    spawned = await native.spawn(request(folder, "sleep", "1000"))
    os.kill(pid, signal.SIGHUP)
    assert [running.identity for running in await native.processes()] == [spawned.identity]
    await native.spawn(request(folder, "true", step="next"))
    assert (await exit_of(native, marker("next"))).code == 0


async def test_orphans_of_a_step_become_no_zombies(native: NativeSupervisor, folder: Path) -> None:
    """What outlives its parent is reaped by supervisord, which is the subreaper."""
    if sys.platform != "linux":
        pytest.skip("only Linux has subreapers")
    bell = Bell(folder)
    await native.spawn(request(folder, "sh", "-c", f"setsid sh -c 'echo $$ >{bell.path}' & exit 0"))
    orphan = int(await bell.heard())
    await exit_of(native, marker())
    while (found := identity_of(orphan)) is not None:
        await until_gone(found)
        await native.processes()  # a turn of supervisord's loop
