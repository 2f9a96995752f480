"""How the end of a process comes to be known. With a real supervisord and real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.unit.adapters.native.kit import (
    INSTANCE,
    Bell,
    end,
    exit_of,
    marker,
    python,
    request,
    until_gone,
)

from qwend.adapters.native.supervisor import NativeSupervisor

pytestmark = pytest.mark.native


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
