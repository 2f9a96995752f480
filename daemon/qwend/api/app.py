"""Every route of the API, in one table. The OpenAPI document is made from the same table."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from qwend.api.control import Control, Json, RecipeRequest
from qwend.api.openapi import document
from qwend.core.wording import show
from qwend.errors import OutOfResource, QwendError, Unreachable, UsageError
from qwend.model.host import Host

log = logging.getLogger(__name__)

_MAX_BODY = 16 * 1024 * 1024
_LARGEST = 1 << 63  # what a database takes
_HOSTS = {"qwend", "localhost", ""}
_encode = msgspec.json.Encoder().encode


T = TypeVar("T")
N = TypeVar("N", int, float)


class ReleaseBody(msgspec.Struct, forbid_unknown_fields=True):
    kill: bool = False


class VerifyBody(msgspec.Struct, forbid_unknown_fields=True):
    digest: str | None = None


class PruneBody(msgspec.Struct, forbid_unknown_fields=True):
    dry_run: bool = False
    all: bool = False


class ExportBody(msgspec.Struct, forbid_unknown_fields=True):
    digest: str
    out: str


class ImagesBody(msgspec.Struct, forbid_unknown_fields=True):
    names: tuple[str, ...] = ()
    flavour: str | None = None
    runtime: str | None = None
    dry_run: bool = False


class FitBody(msgspec.Struct, forbid_unknown_fields=True):
    reference: str
    context: int | None = None
    directory: str = "/"
    host: Host | None = None


class StopBody(msgspec.Struct, forbid_unknown_fields=True):
    services: bool = False


class _NotFound(UsageError):
    """A path that names nothing."""


Handler = Callable[[Request], Awaitable[Response]]


def application(control: Control) -> Starlette:
    """The API over `control`."""
    routes = _routes(control)
    described = [(path, method, summary, body) for path, method, summary, body, _ in routes]
    openapi = _encode(document(described, control.version()["version"]))

    async def describe(_: Request) -> Response:
        return Response(openapi, media_type="application/json")

    table = [Route(path, _guarded(handler), methods=[method]) for path, method, _, _, handler in routes]
    return Starlette(
        routes=[*table, Route("/v1/openapi.json", describe)],
        exception_handlers={404: _missing, 405: _missing},
    )


RouteRow = tuple[str, str, str, type[msgspec.Struct] | None, Handler]


def _routes(c: Control) -> list[RouteRow]:
    async def version(_: Request) -> Response:
        return _json(c.version())

    async def plan(request: Request) -> Response:
        return _lines(c.plan(await _body(request, RecipeRequest)))

    async def up(request: Request) -> Response:
        return _lines(c.up(await _body(request, RecipeRequest)))

    async def lock(request: Request) -> Response:
        return _lines(c.lock(await _body(request, RecipeRequest)))

    async def release(request: Request) -> Response:
        body = await _body(request, ReleaseBody)
        return _json(await c.release(request.path_params["run"], body.kill))

    async def follow(request: Request) -> Response:
        return _lines(c.follow(request.path_params["run"]))

    async def steps(request: Request) -> Response:
        return _json({"steps": c.steps(request.query_params.get("recipe"))})

    async def inspect(request: Request) -> Response:
        return _json(await c.inspect(_key(request)))

    async def act(request: Request) -> Response:
        return _lines(c.act(_key(request), request.path_params["verb"]))

    async def report(request: Request) -> Response:
        return _json(await c.report(request.path_params["recipe"]))

    async def recipes(_: Request) -> Response:
        return _json({"recipes": c.recipes()})

    async def down(request: Request) -> Response:
        return _lines(c.down(request.path_params.get("recipe")))

    async def logs(request: Request) -> Response:
        query = request.query_params
        stream = c.logs(
            _key(request),
            _flag(request, "follow"),
            _number(query.get("tail"), int),
            _number(query.get("since"), float),
        )
        return StreamingResponse(await _primed(stream), media_type="text/plain; charset=utf-8")

    async def events(request: Request) -> Response:
        after = _number(request.query_params.get("after"), int) or 0
        return _lines(c.events(_flag(request, "follow"), after, request.query_params.get("recipe")))

    async def artifacts(_: Request) -> Response:
        return _json({"artifacts": await c.artifacts()})

    async def artifact(request: Request) -> Response:
        return _json(await c.artifact(request.path_params["name"]))

    async def verify(request: Request) -> Response:
        return _lines(c.verify_store((await _body(request, VerifyBody)).digest))

    async def prune(request: Request) -> Response:
        body = await _body(request, PruneBody)
        return _json(await c.prune_store(body.dry_run, body.all))

    async def export(request: Request) -> Response:
        body = await _body(request, ExportBody)
        return _json(await c.export(body.digest, body.out))

    async def images(_: Request) -> Response:
        return _json({"images": await c.images()})

    async def build(request: Request) -> Response:
        body = await _body(request, ImagesBody)
        return _lines(c.build_images(body.names, body.flavour, body.runtime))

    async def verify_images(request: Request) -> Response:
        return _lines(c.verify_images((await _body(request, ImagesBody)).names))

    async def prune_images(request: Request) -> Response:
        return _json(await c.prune_images((await _body(request, ImagesBody)).dry_run))

    async def ports(_: Request) -> Response:
        return _json(c.ports())

    async def plugins(request: Request) -> Response:
        return _json(await c.plugins(request.query_params.get("check")))

    async def schema(_: Request) -> Response:
        return _json(await c.schema())

    async def doctor(_: Request) -> Response:
        return _json(await c.doctor())

    async def fit(request: Request) -> Response:
        body = await _body(request, FitBody)
        return _json(await c.fit(body.reference, body.context, body.directory, body.host))

    async def stop(request: Request) -> Response:
        return _json(await c.stop((await _body(request, StopBody)).services))

    step = "/v1/steps/{recipe}/{step}"
    return [
        ("/v1/version", "GET", "Who answers.", None, version),
        ("/v1/plan", "POST", "What an `up` would do.", RecipeRequest, plan),
        ("/v1/runs", "POST", "Brings a recipe up and tells how it goes.", RecipeRequest, up),
        ("/v1/runs/{run}/release", "POST", "An owner lets go of a run; the last one stops it.", ReleaseBody, release),
        ("/v1/runs/{run}/follow", "GET", "How a run goes, until it is over.", None, follow),
        ("/v1/lock", "POST", "Resolves a recipe's references and writes its lock.", RecipeRequest, lock),
        ("/v1/steps", "GET", "Every step's state.", None, steps),
        (step, "GET", "Everything known of a step.", None, inspect),
        (step + "/{verb:str}", "POST", "Starts, stops or restarts a step.", None, act),
        ("/v1/recipes", "GET", "Every recipe.", None, recipes),
        ("/v1/recipes/{recipe}/report", "GET", "Figures, curves, gates, lineage, machine.", None, report),
        ("/v1/recipes/{recipe}/down", "POST", "Stops a recipe.", None, down),
        ("/v1/down", "POST", "Stops everything.", None, down),
        ("/v1/logs/{recipe}/{step}", "GET", "A step's log.", None, logs),
        ("/v1/events", "GET", "Events, oldest first.", None, events),
        ("/v1/artifacts", "GET", "Every artifact.", None, artifacts),
        ("/v1/artifacts/{name}", "GET", "One artifact with its provenance.", None, artifact),
        ("/v1/store/verify", "POST", "Reads stored files again and compares their digests.", VerifyBody, verify),
        ("/v1/store/prune", "POST", "Removes what nothing refers to.", PruneBody, prune),
        ("/v1/store/export", "POST", "Puts an artifact into a folder of the user's.", ExportBody, export),
        ("/v1/images", "GET", "Every realised image.", None, images),
        ("/v1/images/build", "POST", "Realises images.", ImagesBody, build),
        ("/v1/images/verify", "POST", "Compares realised images with their locks.", ImagesBody, verify_images),
        ("/v1/images/prune", "POST", "Removes images that nothing uses.", ImagesBody, prune_images),
        ("/v1/ports", "GET", "Leased ports.", None, ports),
        ("/v1/plugins", "GET", "Plugins, their engines and their problems.", None, plugins),
        ("/v1/schema", "GET", "The JSON Schema of a recipe.", None, schema),
        ("/v1/doctor", "GET", "What this machine can do.", None, doctor),
        ("/v1/fit", "POST", "Which forms of a model fit a machine.", FitBody, fit),
        ("/v1/daemon/stop", "POST", "Ends the daemon; services live on unless asked.", StopBody, stop),
    ]  # fmt: skip


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: Request) -> Response:
        """A browser never speaks to this socket by itself; what looks like one is a page that was led to it."""
        try:
            if "origin" in request.headers or request.headers.get("host", "") not in _HOSTS:
                raise UsageError("this API answers no web pages", code="foreign-origin")
            return await handler(request)
        except QwendError as error:
            return _json({"error": error.to_dict()}, _status(error))
        except Exception as error:
            log.exception("%s %s", request.method, request.url.path)
            return _json({"error": _bug(error).to_dict()}, 500)

    return guarded


def _bug(error: Exception) -> QwendError:
    return QwendError(
        f"the daemon met a bug: {type(error).__name__}: {error}",
        code="bug",
        hint="qwend daemon status names its log",
    )


def _status(error: QwendError) -> int:
    if isinstance(error, _NotFound) or error.code.startswith("no-such"):
        return 404
    if isinstance(error, UsageError):
        return 400
    return 503 if isinstance(error, Unreachable) else 507 if isinstance(error, OutOfResource) else 409


async def _missing(request: Request, _: Exception) -> Response:
    error = _NotFound(f"{request.method} {request.url.path} is no route of this API", code="no-such-route")
    return _json({"error": error.to_dict()}, 404)


def _json(value: Any, status: int = 200) -> Response:
    return Response(_encode(value), status, media_type="application/json")


def _lines(stream: AsyncIterator[Json]) -> Response:
    """A stream of JSON lines; an error becomes its last line, so that a reader never sees it cut off."""

    async def lines() -> AsyncIterator[bytes]:
        try:
            async for item in stream:
                yield _encode(item) + b"\n"
        except QwendError as error:
            yield _encode({"error": error.to_dict()}) + b"\n"
        except Exception as error:
            log.exception("stream")
            yield _encode({"error": _bug(error).to_dict()}) + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def _primed(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
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


async def _body(request: Request, kind: type[T]) -> T:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY:
            raise UsageError(f"the request is larger than {_MAX_BODY >> 20} MiB", code="too-large")
    try:
        return msgspec.json.decode(bytes(data) or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"bad request: {error}", code="bad-request") from None


def _key(request: Request) -> str:
    return f"{request.path_params['recipe']}/{request.path_params['step']}"


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "") in {"1", "true", "yes"}


def _number(text: str | None, kind: type[N]) -> N | None:
    if text is None:
        return None
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not 0 <= number < _LARGEST:
        raise UsageError(f"{show(text)} is no number from 0 on", code="bad-request")
    return number
