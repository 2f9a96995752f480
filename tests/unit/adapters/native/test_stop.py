"""Trees of processes are ended, and nothing else is. With a real supervisord and real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.unit.adapters.native.kit import (
    INSTANCE,
    Bell,
    a_stranger,
    exit_of,
    kill,
    marker,
    python,
    request,
)

from qwend.adapters.native.identity import still_the_same
from qwend.adapters.native.processes import look
from qwend.adapters.native.supervisor import NativeSupervisor

pytestmark = pytest.mark.native


STUBBORN = "trap '' TERM; echo ready >{bell}; while :; do read -r _ <>{fifo}; done"


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


def test_another_instance_s_processes_are_not_ours() -> None:
    with a_stranger({"QWEND_MARKER": f"{INSTANCE}X:01RUN:r/s:1"}):
        assert look(INSTANCE).markers() == {}
        assert list(look(f"{INSTANCE}X").markers()) == [f"{INSTANCE}X:01RUN:r/s:1"]
