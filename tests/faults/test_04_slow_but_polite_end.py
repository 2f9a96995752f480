"""Fault 4: a handler needs 90 % of the grace period."""

from __future__ import annotations

import pytest
from tests.unit.adapters.native.kit import Bell, a_folder, a_supervisor, exit_of, marker, python, request

pytestmark = pytest.mark.native

GRACE_S = 4.0

CODE = """
import os, signal, time
def end(*_):
    time.sleep({long})
    print("saved", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
open("{bell}", "w").close()
while True:
    signal.pause()
"""


async def test_04_it_exits_cleanly_and_is_not_cut_short() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        bell = Bell(folder)
        await native.spawn(request(folder, *python(CODE.format(long=0.9 * GRACE_S, bell=bell.path))))
        await bell.heard()
        assert not (await native.stop(marker(), GRACE_S)).killed
        assert (await exit_of(native, marker())).code == 0
        assert (folder / "step.log").read_text() == "saved\n"
