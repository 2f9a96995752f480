"""The OpenAPI document, from the table of routes and the types of the bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
QUERIES: dict[str, dict[str, str]] = {
    "/v1/steps": {"recipe": "string"},
    "/v1/logs/{recipe}/{step}": {"follow": "boolean", "tail": "integer", "since": "number"},
    "/v1/events": {"follow": "boolean", "after": "integer", "recipe": "string"},
    "/v1/plugins": {"check": "string"},
}
"""Query parameters by path; the routes take no others."""
_STREAMS = re.compile(r"/v1/(plan|runs|terminals|lock|events|down|.*/(follow|down|verify|build|\{verb\}))$")


def document(
    routes: Iterable[tuple[str, str, str, type[msgspec.Struct] | None]], version: str
) -> dict[str, Any]:
    """An OpenAPI 3.1 document. Streams are `application/x-ndjson`: one JSON object a line."""
    routes = list(routes)
    bodies = [body for _, _, _, body in routes if body is not None]
    schemas, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    by_type = dict(zip(bodies, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for path, method, summary, body in routes:
        plain = _PARAMETER.sub(r"{\1}", path)
        operation: dict[str, Any] = {
            "summary": summary,
            "operationId": f"{method.lower()}{re.sub(r'[^a-z]+', '_', plain.removeprefix('/v1'))}".rstrip(
                "_"
            ),
            "parameters": _parameters(plain),
            "responses": {
                "200": {
                    "description": "done",
                    "content": {_media(plain): {"schema": {"type": ["object", "string"]}}},
                },
                "default": {"description": "an error", "content": {"application/json": {"schema": _ERROR}}},
            },
        }
        if body is not None:
            operation["requestBody"] = {"content": {"application/json": {"schema": by_type[body]}}}
        paths.setdefault(plain, {})[method.lower()] = operation
    info = {"title": "qwend", "version": version, "description": "The daemon's API on its unix socket."}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "code", "message", "hint", "where", "details"],
            "properties": {
                "kind": {"type": "string"},
                "code": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": ["string", "null"]},
                "where": {"type": ["string", "null"]},
                "details": {"type": "array"},
            },
        }
    },
}


def _parameters(path: str) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(path)
    ]
    for name, kind in QUERIES.get(path, {}).items():
        found.append({"name": name, "in": "query", "required": False, "schema": {"type": kind}})
    return found


def _media(path: str) -> str:
    if path.startswith("/v1/logs/"):
        return "text/plain"
    return "application/x-ndjson" if _STREAMS.match(path) else "application/json"
