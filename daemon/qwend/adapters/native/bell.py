"""The socket at which supervisord rings when the journal has news, so that nobody polls."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path


class Bell:
    """Bound by the one daemon of a home. A ring that nobody hears is no loss: the journal keeps the news."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._rung = asyncio.Event()

    def listen(self) -> None:
        """Binds the socket if it is not bound yet, in place of one that an earlier daemon left."""
        if self._socket is not None:
            return
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bell.setblocking(False)
        self._path.unlink(missing_ok=True)
        bell.bind(str(self._path))
        os.chmod(self._path, 0o600)
        asyncio.get_running_loop().add_reader(bell, self._hear)
        self._socket = bell

    def quiet(self) -> None:
        """To be called before one looks for news: what rings from now on is heard by `wait`."""
        self._rung.clear()

    async def wait(self) -> None:
        """Returns at the first ring since `quiet`."""
        await self._rung.wait()

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _hear(self) -> None:
        assert self._socket is not None
        with suppress(BlockingIOError):
            while self._socket.recv(64):
                pass
        self._rung.set()
