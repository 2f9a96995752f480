"""One HTTP/1.1 request on a connection of its own: no pool, no redirects, no surprises, bounded answers.

Probes and a look at Docker's version need no more, and a client library would cost the daemon megabytes.
Follows RFC 9112 (messages) as a client that says `Connection: close`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

_HEAD_LIMIT = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: ([^\r\n]*))?\r?\n")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class BadAnswer(Exception):
    """What came is no HTTP, or more than was allowed; the message says which, in a few words."""


class Answer(NamedTuple):
    """`headers` have lower-case names; `body` is cut at the limit where `whole` is False."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


async def request(
    where: tuple[str, int] | str,
    target: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    limit: int = 1 << 20,
) -> Answer:
    """Asks `where`: host and port, or the path of a unix socket. `limit` bounds the answer's body in bytes.

    Raises OSError (no connection, or it broke), BadAnswer, or ValueError for a request that may not be sent.
    The caller sets the deadline.
    """
    head = _head(where, target, method, headers or {}, body)
    if isinstance(where, str):
        reader, writer = await asyncio.open_unix_connection(where, limit=_HEAD_LIMIT)
    else:
        reader, writer = await asyncio.open_connection(*where, limit=_HEAD_LIMIT)
    try:
        writer.write(head + (body or b""))
        await writer.drain()
        return await _answer(reader, method, limit)
    except (asyncio.LimitOverrunError, asyncio.IncompleteReadError, ValueError) as error:
        raise BadAnswer(_words(error)) from None
    finally:
        writer.transport.abort()


def _words(error: Exception) -> str:
    if isinstance(error, asyncio.IncompleteReadError):
        return "the answer broke off" if error.partial else "it closed the connection without an answer"
    return "a line of the answer is too long"


def _head(
    where: tuple[str, int] | str, target: str, method: str, headers: Mapping[str, str], body: bytes | None
) -> bytes:
    if not target.startswith("/"):
        raise ValueError(f"a path begins with a slash, not {target!r}")
    host = "localhost"
    if not isinstance(where, str):
        host = f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"
    fields = {"Host": host, "Accept": "*/*", "Connection": "close", "User-Agent": "qwend"}
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    fields |= headers
    for name, value in fields.items():
        if not _NAME.fullmatch(name) or any(char in value for char in "\r\n\0"):
            raise ValueError(f"the header {name!r} may not be sent: its name or value is malformed")
    path = quote(target, safe="/?&=%:@!$'()*+,;~-._[]#").partition("#")[0]
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


async def _answer(reader: asyncio.StreamReader, method: str, limit: int) -> Answer:
    while True:
        status, headers = await _read_head(reader)
        if status >= 200:
            break
    if method == "HEAD" or status in (204, 304):
        return Answer(status, headers, b"", True)
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body, whole = await _chunks(reader, limit)
    elif "content-length" in headers:
        try:
            length = int(headers["content-length"])
        except ValueError:
            raise BadAnswer("its content-length is no number") from None
        if length < 0:
            raise BadAnswer("its content-length is no number")
        body, whole = await reader.readexactly(min(length, limit)), length <= limit
    else:
        body = await _up_to(reader, limit + 1)
        body, whole = body[:limit], len(body) <= limit
    return Answer(status, headers, body, whole)


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first = await reader.readuntil(b"\n")
    match = _STATUS.fullmatch(first)
    if match is None:
        raise BadAnswer(f"it does not speak HTTP/1 (it says {first[:40]!r})")
    headers: dict[str, str] = {}
    size = 0
    while (line := await reader.readuntil(b"\n")).strip():
        size += len(line)
        if size > _HEAD_LIMIT:
            raise BadAnswer("its headers are too long")
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise BadAnswer("a header of its answer is malformed")
        headers[name.strip().lower()] = value.strip()
    return int(match[1]), headers


async def _chunks(reader: asyncio.StreamReader, limit: int) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    room = limit
    while True:
        line = (await reader.readuntil(b"\n")).partition(b";")[0].strip()
        try:
            size = int(line, 16)
        except ValueError:
            raise BadAnswer("a chunk of its answer is malformed") from None
        if size == 0:
            return b"".join(parts), True
        if size > room:
            parts.append(await reader.readexactly(room))
            return b"".join(parts), False
        parts.append(await reader.readexactly(size))
        room -= size
        await reader.readuntil(b"\n")


async def _up_to(reader: asyncio.StreamReader, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count and (more := await reader.read(count - len(parts))):
        parts += more
    return bytes(parts)
