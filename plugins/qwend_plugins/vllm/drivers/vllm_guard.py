"""An ASGI middleware that demands an API key of everything but /health.

vLLM's own `--api-key` stands in the command line, where every user of the machine reads it, and guards /v1 alone.
`VLLM_GUARD_KEY_FILE` names the file that holds the key. Standard library only.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

KEY_FILE = "VLLM_GUARD_KEY_FILE"

Scope = MutableMapping[str, Any]
Channel = Callable[..., Awaitable[Any]]


class Guard:
    """Answers 401 in OpenAI's shape where the key is missing or wrong."""

    def __init__(self, app: Callable[[Scope, Channel, Channel], Awaitable[None]]) -> None:
        self._app = app
        self._key = Path(os.environ[KEY_FILE]).read_text(encoding="utf-8").strip().encode()

    async def __call__(self, scope: Scope, receive: Channel, send: Channel) -> None:
        if scope["type"] not in ("http", "websocket") or scope.get("path") == "/health":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ").strip()
        if hmac.compare_digest(said, self._key):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(
                send, "the API key is wrong" if said else "an API key is needed: Authorization: Bearer …"
            )


async def _refuse(send: Channel, message: str) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    body = json.dumps({"error": error}, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
