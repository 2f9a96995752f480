"""mlx-lm's request handler, held to one model: names, key, and no way for a web page. Runs inside the image.

mlx-lm's own knows a model by its path, fetches any other by name from a hub, lets a request name adapters and drafts
by path, answers every web page, and lists what lies in the hub's cache. Here a request names what is served, or is
refused.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from typing import Any

from mlx_lm.server import APIHandler

MOST_BODY = 32 * 1024**2


@dataclass(frozen=True)
class Served:
    """What is served. `names`: the first is the model's own, the others are aliases."""

    names: tuple[str, ...]
    key: str | None
    created: int


class Handler(APIHandler):  # type: ignore[misc]  # mlx-lm is in the image, not here
    """One request. `served` is set on a subclass, since the server makes handlers by itself."""

    served: Served
    requested_model: str

    def do_GET(self) -> None:
        if self.path != "/health" and not self._allowed():
            return
        super().do_GET()

    def do_OPTIONS(self) -> None:
        self._refuse(405, "no web page may call this server", "not_allowed")

    def do_POST(self) -> None:
        if not self._allowed():
            return
        kind = (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":  # what a web page may send unasked is never this
            return self._refuse(415, "a request should be application/json", "unsupported_media_type")
        length = self.headers.get("Content-Length") or ""
        if not length.isdigit() or int(length) > MOST_BODY:
            return self._refuse(
                413, f"a request should say its length, at most {MOST_BODY} bytes", "too_large"
            )
        super().do_POST()

    def validate_model_parameters(self) -> None:
        """Beyond types and ranges: the model is ours, and nothing else is named by path. Raises ValueError."""
        super().validate_model_parameters()
        if self.requested_model not in (*self.served.names, "default_model"):
            raise ValueError(
                f"there is no model {self.requested_model!r} here; there is {', '.join(self.served.names)}"
            )
        if self.adapter is not None or self.requested_draft_model != "default_model":
            raise ValueError("adapters and draft_model cannot be chosen by a request")
        if self.requested_model == "default_model":
            self.requested_model = self.served.names[0]

    def handle_models_request(self) -> None:
        models = [
            {"id": name, "object": "model", "created": self.served.created, "owned_by": "qwend"}
            for name in self.served.names
        ]
        self._answer(200, {"object": "list", "data": models})

    def _set_cors_headers(self) -> None:
        """None: no web page may read an answer."""

    def _allowed(self) -> bool:
        """Whether the request brings the key; if not, it is answered."""
        if self.served.key is None:
            return True
        said = (self.headers.get("Authorization") or "").encode()
        if hmac.compare_digest(said, f"Bearer {self.served.key}".encode()):
            return True
        self._refuse(401, "this server asks for a key", "invalid_api_key")
        return False

    def _refuse(self, status: int, message: str, code: str) -> None:
        self.close_connection = True
        self._answer(status, {"error": {"message": message, "type": "invalid_request_error", "code": code}})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing of /health: every few seconds the same line would say nothing."""
        if self.path != "/health":
            super().log_request(code, size)
