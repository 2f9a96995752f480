"""Ends a tree of processes: politely, then at the deadline, and not done before it is verified."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from qwend.adapters.native.data import StopResult
from qwend.adapters.native.grip import Grips
from qwend.adapters.native.identity import ProcessIdentity
from qwend.adapters.native.processes import Process, main_of

Look = Callable[[frozenset[ProcessIdentity]], Awaitable[list[Process]]]
"""Shows the living members of a tree, oldest first; gets those that it showed before."""

OnKill = Callable[[tuple[ProcessIdentity, ...]], None]
"""Told which processes are about to be killed."""

_KILLS = 10
_KILL_TAKES_S = 1.0


async def end_tree(look: Look, grace_s: float, on_kill: OnKill | None = None) -> StopResult:
    """Ends all that `look` shows, which is asked again until it shows nothing.

    `look` is told what it showed before: who has lost the parent that made him a member is one still.
    SIGTERM goes to the main process and its group first, which may need the rest of the tree to finish its
    work; when the main process is gone, to what it left behind. At the deadline SIGKILL goes to all that is
    left. Nothing is signalled whose pid, start time and membership were not checked.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace_s
    seen: frozenset[ProcessIdentity] = frozenset()
    told: frozenset[ProcessIdentity] = frozenset()
    while tree := await look(seen):
        seen |= {row.identity for row in tree}
        remaining = deadline - loop.time()
        if remaining <= 0:
            return await _kill(look, tree, seen, on_kill)
        main = None if told else main_of(tree)
        asked = [row.identity for row in tree if main is None or row.group == main.group]
        with Grips(asked) as grips:
            grips.send(signal.SIGTERM, sparing=told)
            told |= frozenset(asked)
            await grips.gone(remaining, among=main.identity if main is not None else None)
    return StopResult(killed=False)


async def _kill(
    look: Look, tree: list[Process], seen: frozenset[ProcessIdentity], on_kill: OnKill | None
) -> StopResult:
    if on_kill is not None:
        on_kill(tuple(row.identity for row in tree))
    for _ in range(_KILLS):
        # What forks faster than it is looked at is met again in the next round.
        with Grips(row.identity for row in tree) as grips:
            grips.send(signal.SIGKILL)
            await grips.gone(_KILL_TAKES_S)
        tree = await look(seen)
        if not tree:
            return StopResult(killed=True)
        seen |= {row.identity for row in tree}
    return StopResult(killed=True, survivors=tuple(row.identity for row in tree))
