"""Fault 2: a child double-forks or calls setsid."""

from __future__ import annotations

import sys

import pytest
from tests.unit.adapters.native.kit import Bell, a_folder, a_supervisor, exit_of, marker, python, request

from qwend.adapters.native.identity import identity_of, still_the_same

pytestmark = pytest.mark.native

DAEMON = """
import os, signal
if os.fork():
    {parent}
os.setsid()
if os.fork():
    os._exit(0)
os.closerange(0, 3)
with open("{bell}", "w") as bell:
    bell.write(str(os.getpid()))
signal.pause()
"""


@pytest.mark.parametrize("parent", ["os._exit(0)", "signal.pause()"], ids=["parent gone", "parent stays"])
async def test_02_a_double_fork_with_setsid_is_found_and_ended(parent: str) -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        bell = Bell(folder)
        await native.spawn(request(folder, *python(DAEMON.format(parent=parent, bell=bell.path))))
        daemon = identity_of(int(await bell.heard()))
        assert daemon is not None
        assert daemon in await native.tree(marker())
        assert not (await native.stop(marker(), grace_s=60)).killed
        assert not still_the_same(daemon)


async def test_02_a_daemon_without_our_environment_is_known_by_its_kin() -> None:
    """`env -i` wipes the marker; the parent that is still there gives it away."""
    async with a_folder() as folder, a_supervisor(folder) as native:
        bell = Bell(folder)
        shell = f"exec env -i /bin/sh -c 'setsid sh -c \"echo \\$\\$ >{bell.path}; exec sleep 1000\"'"
        await native.spawn(request(folder, "sh", "-c", shell))
        wiped = identity_of(int(await bell.heard()))
        assert wiped is not None
        assert wiped in await native.tree(marker())
        assert not (await native.stop(marker(), grace_s=60)).killed
        assert not still_the_same(wiped)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
async def test_02_an_orphan_without_our_environment_is_known_by_its_session() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        bell = Bell(folder)
        shell = f"env -i /bin/sh -c 'echo $$ >{bell.path}; exec sleep 1000' & exit 0"
        await native.spawn(request(folder, "sh", "-c", shell))
        orphan = identity_of(int(await bell.heard()))
        assert orphan is not None
        await exit_of(native, marker())
        assert await native.tree(marker()) == (orphan,)
        assert not (await native.stop(marker(), grace_s=60)).killed
        assert not still_the_same(orphan)
