"""The native supervisor with a real supervisord and real processes."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.adapters.native.kit import (
    INSTANCE,
    Bell,
    a_stranger,
    command_of,
    contents_of,
    end,
    environment_of,
    exit_of,
    kill,
    marker,
    python,
    request,
    until_gone,
)

from qwend.adapters.native import rpcinterface, supervisor
from qwend.adapters.native.data import secret_paths
from qwend.adapters.native.identity import identity_of, still_the_same
from qwend.adapters.native.places import Places
from qwend.adapters.native.rpc import RpcError, call
from qwend.adapters.native.supervisor import NativeSupervisor
from qwend.errors import StepFailed, Unreachable

pytestmark = pytest.mark.native

STUBBORN = "trap '' TERM; echo ready >{bell}; while :; do read -r _ <>{fifo}; done"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Starting


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


# Spawning


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


# Exits


async def test_an_exit_tells_code_memory_and_time(native: NativeSupervisor, folder: Path) -> None:
    code = "x = bytearray(80_000_000); sum(range(3_000_000)); raise SystemExit(7)"
    spawned = await native.spawn(request(folder, *python(code)))
    record = await exit_of(native, marker())
    assert (record.identity, record.code, record.signal) == (spawned.identity, 7, None)
    assert 80_000_000 < record.max_rss < 300_000_000
    assert record.cpu_s > 0
    assert record.at <= record.ended
    assert record.oom is False


async def test_an_exit_by_a_signal_tells_which(native: NativeSupervisor, folder: Path) -> None:
    await native.spawn(request(folder, "sh", "-c", "kill -SEGV $$"))
    record = await exit_of(native, marker())
    assert (record.code, record.signal, record.oom) == (None, signal.SIGSEGV, False)


async def test_a_kill_that_is_ours_is_not_blamed_on_memory(
    native: NativeSupervisor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await native.spawn(request(folder, "sleep", "1000"))
    assert (await native.stop(marker(), grace_s=0)).killed
    record = await exit_of(native, marker())
    assert (record.signal, record.oom) == (signal.SIGKILL, False)


async def test_exits_come_in_the_order_in_which_they_happened(native: NativeSupervisor, folder: Path) -> None:
    for n in range(5):
        await native.spawn(request(folder, "true", step=f"s{n}"))
        await exit_of(native, marker(f"s{n}"))
    seen: list[str] = []
    async for record in native.exits():
        seen.append(record.marker)
        if len(seen) == 5:
            break
    assert seen == [marker(f"s{n}") for n in range(5)]


async def test_an_exit_that_nobody_watched_is_told_once_to_the_next_daemon(folder: Path) -> None:
    first = NativeSupervisor(folder, INSTANCE)
    await first.ensure()
    bell = Bell(folder)
    spawned = await first.spawn(request(folder, "sh", "-c", f"read -r _ <{bell.path}; exit 5", step="job"))
    await first.close()
    bell.path.write_text("go\n")
    await until_gone(spawned.identity)

    second = NativeSupervisor(folder, INSTANCE)
    await second.ensure()
    record = await exit_of(second, marker("job"))
    assert record.code == 5
    await second.acknowledge(record)
    await second.spawn(request(folder, "true", step="next"))
    assert (await exit_of(second, marker("next"))).code == 0
    async for told_first in second.exits():
        assert told_first.marker == marker("next"), "what was acknowledged is not told again"
        break
    await end(second)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a memory cgroup")
async def test_a_kill_for_memory_is_named(native: NativeSupervisor, folder: Path) -> None:
    base = Path("/sys/fs/cgroup")
    old = base / "memory"
    group = (old if old.is_dir() else base) / f"qwend-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup here: {error}")
    limit = next((group / n for n in ("memory.max", "memory.limit_in_bytes") if (group / n).exists()), None)
    if limit is None:
        group.rmdir()
        pytest.skip("no memory controller here")
    try:
        limit.write_text(str(64 << 20))
        code = f"open('{group}/cgroup.procs', 'w').write('0'); bytearray(512 << 20)"
        await native.spawn(request(folder, *python(code)))
        record = await exit_of(native, marker())
        assert (record.signal, record.oom) == (signal.SIGKILL, True)
    finally:
        group.rmdir()


# Stopping


async def test_a_process_that_heeds_sigterm_is_not_killed(native: NativeSupervisor, folder: Path) -> None:
    await native.spawn(request(folder, "sleep", "1000"))
    result = await native.stop(marker(), grace_s=30)
    assert (result.killed, result.survivors) == (False, ())
    assert (await exit_of(native, marker())).signal == signal.SIGTERM
    assert not await native.alive(marker())


async def test_who_asks_is_told_before_the_kill(native: NativeSupervisor, folder: Path) -> None:
    spawned = await native.spawn(request(folder, "sleep", "1000"))
    told: list[tuple[object, bool]] = []
    await native.stop(marker(), 0, lambda doomed: told.append((doomed, still_the_same(spawned.identity))))
    assert told == [((spawned.identity,), True)]


async def test_stopping_what_is_not_there_is_nothing(native: NativeSupervisor) -> None:
    assert not (await native.stop(marker("never"), grace_s=30)).killed


async def test_the_main_process_may_need_its_helpers_to_finish(
    native: NativeSupervisor, folder: Path
) -> None:
    """A helper in a session of its own is not told before the main process is gone."""
    bell, words = Bell(folder), folder / "words"
    helper = f"import signal, sys; signal.signal(15, lambda *_: (open('{words}', 'a').write('helper '), sys.exit()))"
    helper += f"; open('{bell.path}', 'w').write('up'); signal.pause()"
    main = "import os, signal, subprocess, sys; "
    main += f"p = subprocess.Popen([sys.executable, '-I', '-S', '-c', {helper!r}], start_new_session=True); "
    main += (
        f"signal.signal(15, lambda *_: (open('{words}', 'a').write('main '), os._exit(0))); signal.pause()"
    )
    await native.spawn(request(folder, *python(main)))
    await bell.heard()
    assert not (await native.stop(marker(), grace_s=30)).killed
    assert words.read_text() == "main helper "


async def test_many_stop_side_by_side(native: NativeSupervisor, folder: Path) -> None:
    """All of them heed SIGTERM only when the last one has got it: one after the other they would never end."""
    count = 8
    barrier = Bell(folder, "barrier")
    words = folder / "words"
    code = f"trap 'echo got >>{words}; while [ $(wc -l <{words}) -lt {count} ]; do sleep 0.02; done; exit 0' TERM\n"
    code += f"echo up >{barrier.path}; while :; do sleep 0.02; done"
    for n in range(count):
        await native.spawn(request(folder, "sh", "-c", code, step=f"s{n}"))
        await barrier.heard()
    results = await asyncio.gather(*(native.stop(marker(f"s{n}"), 30) for n in range(count)))
    assert not any(result.killed for result in results)


async def test_a_stop_needs_no_supervisord(native: NativeSupervisor, folder: Path) -> None:
    spawned = await native.spawn(request(folder, "sleep", "1000"))
    kill((await native.ensure()).pid)
    await native.lost()
    assert not (await native.stop(marker(), grace_s=30)).killed
    assert not still_the_same(spawned.identity)


async def test_where_there_are_no_pidfds_stopping_works_too(
    native: NativeSupervisor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    bell, never = Bell(folder), Bell(folder, "never")
    code = STUBBORN.format(bell=bell.path, fifo=never.path)
    await native.spawn(request(folder, "sh", "-c", code, step="stubborn"))
    await native.spawn(request(folder, "sleep", "1000", step="meek"))
    await bell.heard()
    results = await asyncio.gather(native.stop(marker("stubborn"), 0.1), native.stop(marker("meek"), 30))
    assert [result.killed for result in results] == [True, False]


async def test_strays_are_ended_and_the_known_left_alone(native: NativeSupervisor, folder: Path) -> None:
    known = await native.spawn(request(folder, "sleep", "1000", step="known"))
    await native.spawn(request(folder, "sleep", "1000", step="stray"))
    assert await native.end_strays([marker("known")]) == (marker("stray"),)
    assert still_the_same(known.identity)


async def test_another_instance_s_processes_are_no_strays(native: NativeSupervisor) -> None:
    with a_stranger({"QWEND_MARKER": f"{INSTANCE}X:01RUN:r/s:1"}) as other:
        assert await native.end_strays(()) == ()
        assert still_the_same(other)


# The end


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
