"""Fault 19: the native supervisor process dies.

This layer notices, starts another and tells which markers have lost their parent; ending and restarting
them is decided above it.
"""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.adapters.native.kit import a_folder, a_supervisor, exit_of, kill, marker, request

from qwend.adapters.native.identity import still_the_same

pytestmark = pytest.mark.native


async def test_19_children_live_on_are_named_once_and_can_be_ended_and_started_again() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        first = await native.ensure()
        services = [
            await native.spawn(request(folder, "sh", "-c", "sleep 1000 & wait", step=step))
            for step in ("chat", "embed")
        ]
        kill(first.pid)
        await asyncio.wait_for(native.lost(), 30)
        assert all(still_the_same(service.identity) for service in services)

        await native.spawn(request(folder, "true", step="meanwhile"))  # brings up another, unasked
        second = await native.ensure()
        assert second.pid != first.pid
        assert second.lost == (marker("chat"), marker("embed"))
        assert (await native.ensure()).lost == (), "each is told once"
        assert not {running.marker for running in await native.processes()} & set(second.lost)

        results = await asyncio.gather(*(native.stop(lost, 60) for lost in second.lost))
        assert not any(result.killed for result in results)
        assert not any(still_the_same(service.identity) for service in services)
        again = await native.spawn(request(folder, "sleep", "1000", step="chat", generation=2))
        assert still_the_same(again.identity)


async def test_19_exits_from_before_are_kept_and_later_ones_go_on() -> None:
    async with a_folder() as folder, a_supervisor(folder) as native:
        await native.spawn(request(folder, "sh", "-c", "exit 4", step="before"))
        await exit_of(native, marker("before"))
        kill((await native.ensure()).pid)
        await asyncio.wait_for(native.lost(), 30)
        assert (await native.ensure()).lost == ()
        await native.spawn(request(folder, "sh", "-c", "exit 5", step="after"))
        codes = [(await exit_of(native, marker(step))).code for step in ("before", "after")]
        assert codes == [4, 5]
