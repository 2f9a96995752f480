"""Fault 3: SIGTERM is ignored."""

from __future__ import annotations

import signal

import pytest
from tests.unit.adapters.native.kit import Bell, a_folder, a_supervisor, exit_of, marker, python, request

from qwend.adapters.native.identity import still_the_same

pytestmark = pytest.mark.native


async def test_03_sigkill_comes_at_the_deadline_and_is_recorded_as_killed() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        bell = Bell(folder)
        code = f"import signal; signal.signal(15, signal.SIG_IGN); open('{bell.path}', 'w').close(); signal.pause()"
        spawned = await native.spawn(request(folder, *python(code)))
        await bell.heard()
        result = await native.stop(marker(), grace_s=0.3)
        assert result.killed
        assert result.survivors == ()
        assert not still_the_same(spawned.identity)
        assert (await exit_of(native, marker())).signal == signal.SIGKILL
