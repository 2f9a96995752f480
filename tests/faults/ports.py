"""Ports that belong to one test house: no other house of this machine, and no daemon of a user, is given them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from qwend.adapters.listeners import ephemeral_range

_FIRST, _LAST = 20_000, 31_999
_SIZE = 100
_LEASED = 80
"""Of each block so many are the daemon's, the rest are for a recipe's `port:`, and the last one marks the block."""


class Block:
    """A hundred ports, taken for as long as its last one is held by a listening socket of this process."""

    def __init__(self) -> None:
        self._mark, self.first = next(_free_blocks())
        self._fixed = iter(range(self.first + _LEASED, self.first + _SIZE - 1))

    @property
    def toml(self) -> str:
        """The line of qwend.toml that keeps a daemon to its part."""
        return f'port_range = "{self.first}-{self.first + _LEASED - 1}"\n'

    def fixed(self) -> int:
        """A port that the daemon leases to nobody by itself; each is given once."""
        for port in self._fixed:
            with socket.socket() as tried, contextlib.suppress(OSError):
                tried.bind(("127.0.0.1", port))
                return port
        raise AssertionError("no port is left for a recipe")

    def close(self) -> None:
        self._mark.close()


def _free_blocks() -> Iterator[tuple[socket.socket, int]]:
    """Free blocks, from one that depends on this process, with the sockets that mark them."""
    low, high = ephemeral_range()
    count = (_LAST + 1 - _FIRST) // _SIZE
    starts = [_FIRST + _SIZE * ((os.getpid() + turn) % count) for turn in range(count)]
    # A machine may give ports of this range to outgoing connections: those blocks come last.
    for first in sorted(starts, key=lambda first: first <= high and low < first + _SIZE):
        mark = socket.socket()
        try:
            mark.bind(("127.0.0.1", first + _SIZE - 1))
            mark.listen()
        except OSError:
            mark.close()
        else:
            yield mark, first
    raise AssertionError(f"every block of {_FIRST}-{_LAST} is taken")
