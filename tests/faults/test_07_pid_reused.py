"""Fault 7: a pid is reused by a stranger."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.unit.adapters.native.kit import a_folder, a_stranger, a_supervisor, exit_of, kill, marker, request

from qwend.adapters.native.grip import Grip, take
from qwend.adapters.native.identity import identity_of, still_the_same

pytestmark = pytest.mark.native

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
"""Writing N here makes the kernel give N + 1 to the next process."""


def give_next(pid: int) -> None:
    LAST_PID.write_text(str(pid - 1))


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="only root can choose the next pid, on Linux")
async def test_07_the_stranger_is_never_signalled() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        for generation in range(1, 50):
            spawned = await native.spawn(request(folder, "sleep", "1000", generation=generation))
            kill(spawned.identity.pid)
            await exit_of(native, marker(generation=generation))
            give_next(spawned.identity.pid)
            with a_stranger() as stranger:
                if stranger.pid != spawned.identity.pid:
                    continue  # somebody was faster
                assert not await native.alive(marker(generation=generation))
                assert not (await native.stop(marker(generation=generation), grace_s=0)).killed
                assert still_the_same(stranger)
                return
        pytest.fail("no pid could be made to come again")


@pytest.mark.parametrize("other", [{"started": 1}, {"boot": "an earlier boot"}], ids=["start time", "boot"])
def test_07_another_start_time_or_boot_is_another_process(other: dict[str, int | str]) -> None:
    with a_stranger() as stranger:
        remembered = stranger._replace(**other)  # type: ignore[arg-type]
        assert take(remembered) is None
        Grip(remembered, None).send(signal.SIGKILL)
        assert identity_of(stranger.pid) == stranger
        assert still_the_same(stranger)
