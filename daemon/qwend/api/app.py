"""Every route of the API, in one table. The OpenAPI document is made from the same table."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from qwend.api.control import AttachRequest, Control, ExportRequest, RecipeRequest
from qwend.api.openapi import QUERIES, document
from qwend.api.speech import (
    Nothing,
    answer,
    body_of,
    bug,
    encode,
    flag,
    known_query,
    lines,
    number,
    primed,
    step_key,
)  # fmt: skip
from qwend.errors import OutOfResource, QwendError, Unreachable, UsageError
from qwend.model.host import Host

log = logging.getLogger(__name__)

_HOSTS = {"qwend", "localhost", ""}


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


class BuildBody(msgspec.Struct, forbid_unknown_fields=True):
    names: tuple[str, ...] = ()
    flavour: str | None = None
    runtime: str | None = None


class VerifyImagesBody(msgspec.Struct, forbid_unknown_fields=True):
    names: tuple[str, ...] = ()


class PruneImagesBody(msgspec.Struct, forbid_unknown_fields=True):
    dry_run: bool = False


class FitBody(msgspec.Struct, forbid_unknown_fields=True):
    reference: str
    context: int | None = None
    format: str | None = None
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
    openapi = encode(document(described, control.version()["version"]))

    async def describe(_: Request) -> Response:
        return Response(openapi, media_type="application/json")

    table = [
        Route(path, _guarded(handler, path, bodiless=body is None), methods=[method])
        for path, method, _, body, handler in routes
    ]
    return Starlette(
        routes=[*table, Route("/v1/openapi.json", describe)],
        exception_handlers={404: _missing, 405: _missing},
    )


RouteRow = tuple[str, str, str, type[msgspec.Struct] | None, Handler]


def _routes(c: Control) -> list[RouteRow]:
    async def version(_: Request) -> Response:
        return answer(c.version())

    async def plan(request: Request) -> Response:
        return lines(c.plan(await body_of(request, RecipeRequest)))

    async def up(request: Request) -> Response:
        return lines(c.up(await body_of(request, RecipeRequest)))

    async def attach(request: Request) -> Response:
        return lines(c.attach(await body_of(request, AttachRequest)))

    async def lock(request: Request) -> Response:
        return lines(c.lock(await body_of(request, RecipeRequest)))

    async def export_recipe(request: Request) -> Response:
        return lines(c.export_recipe(await body_of(request, ExportRequest)))

    async def release(request: Request) -> Response:
        body = await body_of(request, ReleaseBody)
        return answer(await c.release(request.path_params["run"], body.kill))

    async def follow(request: Request) -> Response:
        return lines(c.follow(request.path_params["run"]))

    async def steps(request: Request) -> Response:
        return answer({"steps": c.steps(request.query_params.get("recipe"))})

    async def inspect(request: Request) -> Response:
        return answer(await c.inspect(step_key(request)))

    async def act(request: Request) -> Response:
        return lines(c.act(step_key(request), request.path_params["verb"]))

    async def report(request: Request) -> Response:
        return answer(await c.report(request.path_params["recipe"]))

    async def recipes(_: Request) -> Response:
        return answer({"recipes": c.recipes()})

    async def down(request: Request) -> Response:
        return lines(c.down(request.path_params.get("recipe")))

    async def logs(request: Request) -> Response:
        query = request.query_params
        stream = c.logs(
            step_key(request),
            flag(request, "follow"),
            number(query.get("tail"), int),
            number(query.get("since"), float),
        )
        return StreamingResponse(await primed(stream), media_type="text/plain; charset=utf-8")

    async def events(request: Request) -> Response:
        after = number(request.query_params.get("after"), int) or 0
        return lines(c.events(flag(request, "follow"), after, request.query_params.get("recipe")))

    async def artifacts(_: Request) -> Response:
        return answer({"artifacts": await c.artifacts()})

    async def artifact(request: Request) -> Response:
        return answer(await c.artifact(request.path_params["name"]))

    async def verify(request: Request) -> Response:
        return lines(c.verify_store((await body_of(request, VerifyBody)).digest))

    async def prune(request: Request) -> Response:
        body = await body_of(request, PruneBody)
        return answer(await c.prune_store(body.dry_run, body.all))

    async def export(request: Request) -> Response:
        body = await body_of(request, ExportBody)
        return answer(await c.export(body.digest, body.out))

    async def images(_: Request) -> Response:
        return answer({"images": await c.images()})

    async def build(request: Request) -> Response:
        body = await body_of(request, BuildBody)
        return lines(c.build_images(body.names, body.flavour, body.runtime))

    async def verify_images(request: Request) -> Response:
        return lines(c.verify_images((await body_of(request, VerifyImagesBody)).names))

    async def prune_images(request: Request) -> Response:
        return answer(await c.prune_images((await body_of(request, PruneImagesBody)).dry_run))

    async def ports(_: Request) -> Response:
        return answer(c.ports())

    async def plugins(request: Request) -> Response:
        return answer(await c.plugins(request.query_params.get("check")))

    async def schema(_: Request) -> Response:
        return answer(await c.schema())

    async def doctor(_: Request) -> Response:
        return answer(await c.doctor())

    async def fit(request: Request) -> Response:
        body = await body_of(request, FitBody)
        return answer(await c.fit(body.reference, body.context, body.format, body.directory, body.host))

    async def stop(request: Request) -> Response:
        return answer(await c.stop((await body_of(request, StopBody)).services))

    step = "/v1/steps/{recipe}/{step}"
    return [
        ("/v1/version", "GET", "Who answers.", None, version),
        ("/v1/plan", "POST", "What an `up` would do.", RecipeRequest, plan),
        ("/v1/runs", "POST", "Brings a recipe up and tells how it goes.", RecipeRequest, up),
        ("/v1/runs/{run}/release", "POST", "An owner lets go of a run; the last one stops it.", ReleaseBody, release),
        ("/v1/runs/{run}/follow", "GET", "How a run goes, until it is over.", None, follow),
        ("/v1/terminals", "POST", "Readies an interactive step, which is the connection's.", AttachRequest, attach),
        ("/v1/lock", "POST", "Resolves a recipe's references and writes its lock.", RecipeRequest, lock),
        ("/v1/export", "POST", "A recipe as a script, or as a compose file.", ExportRequest, export_recipe),
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
        ("/v1/images/build", "POST", "Realises images.", BuildBody, build),
        ("/v1/images/verify", "POST", "Compares realised images with their locks.", VerifyImagesBody, verify_images),
        ("/v1/images/prune", "POST", "Removes images that nothing uses.", PruneImagesBody, prune_images),
        ("/v1/ports", "GET", "Leased ports.", None, ports),
        ("/v1/plugins", "GET", "Plugins, their engines and their problems.", None, plugins),
        ("/v1/schema", "GET", "The JSON Schema of a recipe.", None, schema),
        ("/v1/doctor", "GET", "What this machine can do.", None, doctor),
        ("/v1/fit", "POST", "Which forms of a model fit a machine.", FitBody, fit),
        ("/v1/daemon/stop", "POST", "Ends the daemon; services live on unless asked.", StopBody, stop),
    ]  # fmt: skip


def _guarded(handler: Handler, path: str, *, bodiless: bool) -> Handler:
    async def guarded(request: Request) -> Response:
        """A browser never speaks to this socket by itself; what looks like one is a page that was led to it."""
        try:
            if "origin" in request.headers or request.headers.get("host", "") not in _HOSTS:
                raise UsageError("this API answers no web pages", code="foreign-origin")
            known_query(request, QUERIES.get(path, ()))
            if bodiless:
                await body_of(request, Nothing)
            return await handler(request)
        except QwendError as error:
            return answer({"error": error.to_dict()}, _status(error))
        except Exception as error:
            log.exception("%s %s", request.method, request.url.path)
            return answer({"error": bug(error).to_dict()}, 500)

    return guarded


def _status(error: QwendError) -> int:
    if isinstance(error, _NotFound) or error.code.startswith("no-such"):
        return 404
    if isinstance(error, UsageError):
        return 400
    return 503 if isinstance(error, Unreachable) else 507 if isinstance(error, OutOfResource) else 409


async def _missing(request: Request, _: Exception) -> Response:
    error = _NotFound(f"{request.method} {request.url.path} is no route of this API", code="no-such-route")
    return answer({"error": error.to_dict()}, 404)
