"""Probes against real servers on loopback, well-behaved and hostile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from qwend.adapters.prober import ANSWER_LIMIT, HttpProber
from qwend.model.launch import HttpProbe

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[int]:
    ended: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        ended.add(task)
        try:
            with contextlib.suppress(ConnectionError):
                await handler(reader, writer)
                await writer.drain()
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, host, 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)


def says(*pieces: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return handler


def ok(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


async def ask(handler: Handler, probe: HttpProbe, **headers: str) -> str | None:
    async with server(handler) as port:
        return await HttpProber().ask("127.0.0.1", port, probe, headers)


HEALTH = HttpProbe("/health")
WORK = HttpProbe("/v1/chat/completions", body={"max_tokens": 1}, field="choices.0.message.content")


async def test_a_2xx_answer_is_well() -> None:
    assert await ask(says(ok(b"{}")), HEALTH) is None
    assert await ask(says(b"HTTP/1.1 204 No Content\r\n\r\n"), HEALTH) is None
    assert await ask(says(b"HTTP/1.0 200 OK\r\n\r\nuntil the end"), HEALTH) is None
    assert await ask(says(b"HTTP/1.1 100 Continue\r\n\r\n", ok(b"")), HEALTH) is None


async def test_a_service_that_is_loading_is_quoted_in_one_line() -> None:
    body = b'{"error": {"message":\n "Loading model\x1b[31m"}}'
    answer = await ask(says(ok(body, "503 Service Unavailable")), HEALTH)
    assert answer == '/health answers 503: {"error": {"message": "Loading model\\x1b[31m"}}'


async def test_a_work_path_probe_wants_its_field_in_the_answer() -> None:
    token = json.dumps({"choices": [{"message": {"content": ""}}]}).encode()
    assert await ask(says(ok(token)), WORK) is None
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + token[:5] + b"\r\n"
    rest = b"%x;ext=1\r\n%s\r\n0\r\n\r\n" % (len(token) - 5, token[5:])
    assert await ask(says(chunked, rest), WORK) is None
    for wrong in (b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b"[1]"):
        assert await ask(says(ok(wrong)), WORK) == (
            "/v1/chat/completions answers without choices.0.message.content"
        )
    assert await ask(says(ok(b"<html>")), WORK) == "/v1/chat/completions does not answer in JSON"


async def test_the_body_and_the_key_are_sent() -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.extend([head, await reader.readexactly(16)])
        writer.write(ok(b'{"choices":[{"message":{"content":"x"}}]}'))

    assert await ask(handler, WORK, Authorization="Bearer abc") is None
    assert seen[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer abc\r\n" in seen[0]
    assert json.loads(seen[1]) == {"max_tokens": 1}


async def test_a_header_with_a_newline_is_not_sent() -> None:
    answer = await ask(says(ok(b"")), HEALTH, Authorization="x\r\nEvil: 1")
    assert answer is not None
    assert "may not be sent" in answer


async def test_a_redirect_is_told_and_not_followed() -> None:
    visits: list[int] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(1)
        writer.write(ok(b""))

    async with server(elsewhere) as port:
        moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % port
        answer = await ask(says(moved), HEALTH)
    assert answer == "/health answers 302, a redirect, which is not followed"
    assert visits == []


async def test_a_service_that_accepts_and_never_answers_is_given_up_at_the_deadline() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    probe = HttpProbe("/health", timeout_s=0.05)
    assert await ask(silent, probe) == "/health did not answer within 0.05 s"


async def test_a_port_where_nobody_listens_is_told() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert await HttpProber().ask("0.0.0.0", port, HEALTH, {}) == f"nothing listens on port {port} yet"


@pytest.mark.parametrize(
    ("bytes_", "said"),
    [
        (b"", "it closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "the answer broke off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it does not speak HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "a header of its answer is malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "content-length is no number"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "a chunk of its answer is malformed",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", "a line of the answer is too long"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: aaaaaaaaaaaa\r\n" * 9000 + b"\r\n", "its headers are too long"),
    ],
)
async def test_an_answer_that_is_none_is_told_in_one_line(bytes_: bytes, said: str) -> None:
    answer = await ask(says(bytes_), WORK)
    assert answer is not None
    assert said in answer
    assert "\n" not in answer


async def test_a_flood_is_cut_at_the_limit() -> None:
    sent: list[int] = []

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            sent.append(65536)
            await writer.drain()

    assert await ask(flood, WORK) == f"/v1/chat/completions answers with more than {ANSWER_LIMIT} bytes"
    assert sum(sent) < 16 * ANSWER_LIMIT


async def test_an_address_of_version_6_is_asked_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        async with server(says(ok(b"")), "::1") as port:
            assert await HttpProber().ask("::", port, HEALTH, {}) is None
    except OSError:
        pytest.skip("no IPv6 loopback here")
