"""Fault 1: a wrapper forks and dies, its grandchild holds stdout."""

from __future__ import annotations

import pytest
from tests.unit.adapters.native.kit import Bell, a_folder, a_supervisor, exit_of, marker, request

from qwend.adapters.native.identity import identity_of, still_the_same

pytestmark = pytest.mark.native


async def test_01_the_wrapper_s_exit_is_seen_and_its_grandchild_ends_with_the_step() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        bell = Bell(folder)
        wrapper = f"sh -c 'echo talking; echo $$ >{bell.path}; exec sleep 1000' & exit 3"
        await native.spawn(request(folder, "sh", "-c", wrapper))
        grandchild = identity_of(int(await bell.heard()))
        assert grandchild is not None

        assert (await exit_of(native, marker())).code == 3, "nobody waits for the end of its output"
        assert still_the_same(grandchild)
        assert await native.alive(marker())

        result = await native.stop(marker(), grace_s=60)
        assert not result.killed, "it heeded SIGTERM, long before the deadline"
        assert not still_the_same(grandchild)
        assert not await native.alive(marker())


async def test_01_a_grandchild_that_ignores_sigterm_is_killed_at_the_deadline() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        bell = Bell(folder)
        wrapper = f"sh -c 'trap \"\" TERM; echo $$ >{bell.path}; exec sleep 1000' & exit 0"
        await native.spawn(request(folder, "sh", "-c", wrapper))
        grandchild = identity_of(int(await bell.heard()))
        assert grandchild is not None
        assert (await native.stop(marker(), grace_s=0.2)).killed
        assert not still_the_same(grandchild)
