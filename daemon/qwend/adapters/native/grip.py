"""Holds one process so that a signal reaches it or nobody."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

from qwend.adapters.native.identity import ProcessIdentity, still_the_same

_POLL_S = 0.02


class Grip:
    """A process held by a pidfd where the system has them (Linux 5.3), else by looking before each step.

    With a pidfd the check of the identity and the signal are one: the descriptor was opened first, so it
    means the process that was checked, whatever becomes of the pid.
    """

    def __init__(self, identity: ProcessIdentity, fd: int | None) -> None:
        self.identity = identity
        self._fd = fd

    def send(self, number: signal.Signals) -> None:
        """Signals the process if it is still the same one. Raises PermissionError for another user's."""
        with suppress(ProcessLookupError):
            if self._fd is not None:
                signal.pidfd_send_signal(self._fd, number)
            elif still_the_same(self.identity):
                os.kill(self.identity.pid, number)

    async def gone(self) -> None:
        """Returns when the process has ended (whether or not anyone reaped it)."""
        if self._fd is None:
            while still_the_same(self.identity):  # noqa: ASYNC110 (nothing tells us)
                await asyncio.sleep(_POLL_S)
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._fd)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def take(identity: ProcessIdentity) -> Grip | None:
    """A grip on the process, or None if it is gone: its pid may be somebody else's by now."""
    fd: int | None = None
    if hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return None
        except OSError:
            fd = None  # no such call in this kernel, or no descriptor left
    grip = Grip(identity, fd)
    if still_the_same(identity):
        return grip
    grip.close()
    return None


class Grips:
    """Several processes held at once, for as long as the `with` block runs."""

    def __init__(self, identities: Iterable[ProcessIdentity]) -> None:
        self._identities = tuple(identities)
        self.held: list[Grip] = []

    def __enter__(self) -> Self:
        self.held = [grip for identity in self._identities if (grip := take(identity)) is not None]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for grip in self.held:
            grip.close()

    def send(self, number: signal.Signals, sparing: frozenset[ProcessIdentity] = frozenset()) -> None:
        """Signals all of them but the spared; one that may not be signalled is passed over."""
        for grip in self.held:
            if grip.identity not in sparing:
                with suppress(PermissionError):
                    grip.send(number)

    async def gone(self, timeout_s: float, among: ProcessIdentity | None = None) -> bool:
        """Waits until all (or the one) have ended, at most so long; whether they have."""
        watched = [grip for grip in self.held if among in (None, grip.identity)]
        if not watched:
            return True
        waits = [asyncio.ensure_future(grip.gone()) for grip in watched]
        try:
            _, pending = await asyncio.wait(waits, timeout=max(timeout_s, 0.0))
            return not pending
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
