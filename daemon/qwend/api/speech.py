"""How requests are read and answers written: JSON, streams of JSON lines, errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Container
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from qwend.api.control import Json
from qwend.core.wording import show
from qwend.errors import QwendError, UsageError

log = logging.getLogger(__name__)

_MAX_BODY = 16 * 1024 * 1024
_LARGEST = 1 << 63  # what a database takes

T = TypeVar("T")
N = TypeVar("N", int, float)

encode = msgspec.json.Encoder().encode


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request that has nothing to say."""


def bug(error: Exception) -> QwendError:
    return QwendError(
        f"the daemon met a bug: {type(error).__name__}: {error}",
        code="bug",
        hint="qwend daemon status names its log",
    )


def answer(value: Any, status: int = 200) -> Response:
    return Response(encode(value), status, media_type="application/json")


def lines(items: AsyncIterator[Json]) -> Response:
    """A stream of JSON lines; an error becomes its last line, so that a reader never sees it cut off."""

    async def encoded() -> AsyncIterator[bytes]:
        try:
            async for item in items:
                yield encode(item) + b"\n"
        except QwendError as error:
            yield encode({"error": error.to_dict()}) + b"\n"
        except Exception as error:
            log.exception("stream")
            yield encode({"error": bug(error).to_dict()}) + b"\n"

    return StreamingResponse(encoded(), media_type="application/x-ndjson")


async def primed(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same stream after its first piece was read: errors before it become a status."""
    try:
        first = await anext(stream)
    except StopAsyncIteration:
        first = b""

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in stream:
            yield piece

    return whole()


async def body_of(request: Request, kind: type[T]) -> T:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY:
            raise UsageError(f"the request is larger than {_MAX_BODY >> 20} MiB", code="too-large")
    try:
        return msgspec.json.decode(bytes(data) or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"bad request: {error}", code="bad-request") from None


def known_query(request: Request, names: Container[str]) -> None:
    """Raises UsageError for a query parameter that the route would ignore."""
    for name in request.query_params:
        if name not in names:
            raise UsageError(f"bad request: {show(name)} is no parameter of this route", code="bad-request")


def step_key(request: Request) -> str:
    return f"{request.path_params['recipe']}/{request.path_params['step']}"


def flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "") in {"1", "true", "yes"}


def number(text: str | None, kind: type[N]) -> N | None:
    if text is None:
        return None
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not 0 <= number < _LARGEST:
        raise UsageError(f"{show(text)} is no number from 0 on", code="bad-request")
    return number
