"""Serves the API on a unix socket that belongs to one user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol


def listen(path: Path) -> socket.socket:
    """A listening unix socket with mode 0600, whatever the umask; its folder is made 0700."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(before)
    path.chmod(0o600)
    sock.listen(128)
    sock.setblocking(False)
    return sock


def peer_uid(sock: socket.socket) -> int | None:
    """The uid of whoever connected; None where the system does not tell."""
    if sys.platform == "linux":
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", data)[1])
    try:
        data = sock.getsockopt(0, 1, 76)  # LOCAL_PEERCRED of macOS: struct xucred
    except OSError:
        return None
    return int(struct.unpack_from("2I", data)[1])


class SameUser(H11Protocol):
    """Speaks only to processes of the daemon's own user (and root)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        sock = transport.get_extra_info("socket")
        uid = peer_uid(sock._sock if hasattr(sock, "_sock") else sock)
        if uid is not None and uid not in {0, os.getuid()}:
            transport.abort()
            return
        super().connection_made(transport)


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: ASGIApp, sock: socket.socket, stop: asyncio.Event) -> None:
    """Serves until `stop` is set; requests under way get a moment to end."""
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            http=SameUser,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    server.should_exit = True
    await serving
