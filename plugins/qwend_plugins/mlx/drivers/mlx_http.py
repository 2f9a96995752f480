"""mlx-lm's request handler, held to one model and to OpenAI's words. Runs inside the image.

mlx-lm's own knows a model by its path, fetches any other by name from a hub, lets a request name adapters and drafts
by path, answers every web page, lists what lies in the hub's cache, tells errors in a shape of its own, and looks for
stop texts token by token, so that most are missed. Here a request is read as every engine of qwend reads it, and what
is served answers it, or it is refused in OpenAI's shape.
"""

from __future__ import annotations

import hmac
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlx_lm.server import APIHandler, ResponseGenerator
from mlx_stops import until
from openai_requests import Asked, BadRequest, read_body, read_chat, read_completion

MOST_BODY = 32 * 1024**2
_OWN = ("logprobs", "top_logprobs")
"""What mlx-lm answers in a shape of its own; the common reader refuses it."""


@dataclass(frozen=True)
class Served:
    """What is served. `names`: the first is the model's own, the others are aliases. `context`: tokens of prompt and
    answer together. `repetition`: the penalty of what is repeated where a request names none; mlx-lm has no word for
    it."""

    names: tuple[str, ...]
    key: str | None
    created: int
    context: int
    repetition: float | None = None


class Generator(ResponseGenerator):  # type: ignore[misc]  # mlx-lm is in the image, not here
    """mlx-lm's generator, with stop texts that are found wherever they stand in the text."""

    def generate(self, request: Any, generation_args: Any, *rest: Any, **named: Any) -> Any:
        stops, generation_args.stop_words = generation_args.stop_words, []
        context, news = super().generate(request, generation_args, *rest, **named)
        return context, until(news, stops) if stops else news


class Handler(APIHandler):  # type: ignore[misc]
    """One request. `served` is set on a subclass, since the server makes handlers by itself."""

    served: Served
    path: str
    _streaming = False

    def do_GET(self) -> None:
        self._guarded(self._get)

    def do_OPTIONS(self) -> None:
        self._refuse(BadRequest("no web page may call this server", code="not_allowed", status=405))

    def do_POST(self) -> None:
        self._guarded(self._post)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BadRequest as error:
            self._refuse(error)
        except (ConnectionError, TimeoutError):  # who left is told nothing
            self.close_connection = True
        except Exception as error:  # told to who asked; the server goes on
            self.log_error("%s: %s", type(error).__name__, error)
            self._refuse(_failed(error))

    def _get(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/health":
            super().do_GET()
            return
        self._check_key()
        models = [
            {"id": name, "object": "model", "created": self.served.created, "owned_by": "qwend"}
            | {"max_model_len": self.served.context}
            for name in self.served.names
        ]
        if path == "/v1/models":
            self._answer(200, {"object": "list", "data": models})
        elif found := [model for model in models if path == f"/v1/models/{model['id']}"]:
            self._answer(200, found[0])
        else:
            raise BadRequest(f"there is no {self.path[:200]}", code="not_found", status=404)

    def _post(self) -> None:
        self._check_key()
        body = read_body(self._read())
        self.path = self.path.partition("?")[0].rstrip("/")
        common = {key: value for key, value in body.items() if key not in _OWN}
        match self.path:
            case "/v1/chat/completions" | "/chat/completions":
                chat = read_chat(common)
                asked, body["messages"] = chat.asked, chat.messages
                body["tools"] = chat.tools
                length = self._chat_length(body)
            case "/v1/completions":
                asked, prompts = read_completion(common)
                if len(prompts) != 1 or not isinstance(prompts[0], str):
                    raise BadRequest("a request can have one prompt here, as a text", "prompt")
                body["prompt"] = prompts[0]
                length = len(self._tokenizer().encode(prompts[0]))
            case _:
                raise BadRequest(f"there is no {self.path[:200]}", code="not_found", status=404)
        body |= self._checked(asked, body, length)
        whole = json.dumps(body).encode()
        self.headers.replace_header("Content-Length", str(len(whole)))
        self.rfile = io.BytesIO(whole)
        super().do_POST()

    def _read(self) -> bytes:
        """The body: JSON by its own word, which what a web page may send unasked never is."""
        if self.headers.get_content_type() != "application/json":
            raise BadRequest("a request should be application/json", status=415)
        length = self.headers.get("Content-Length") or ""
        if not length.isdigit() or int(length) > MOST_BODY:
            raise BadRequest(f"a request should say its length, at most {MOST_BODY} bytes", status=413)
        return bytes(self.rfile.read(int(length)))

    def _check_key(self) -> None:
        said = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        if self.served.key is not None and not hmac.compare_digest(said.encode(), self.served.key.encode()):
            text = "the API key is wrong" if said else "an API key is needed: Authorization: Bearer …"
            raise BadRequest(text, code="invalid_api_key", status=401)

    def _tokenizer(self) -> Any:
        return self.response_generator.model_provider.tokenizer

    def _chat_length(self, body: dict[str, Any]) -> int:
        """Tokens of a chat by the model's template."""
        options = dict(self.response_generator.cli_args.chat_template_args or {})
        options |= body.get("chat_template_kwargs") or {}
        try:
            tokens = self._tokenizer().apply_chat_template(
                body["messages"], tools=body["tools"], add_generation_prompt=True, tokenize=True, **options
            )
        except Exception as error:  # templates raise what they like, for roles in a wrong order above all
            text = f"the model's chat template refuses these messages: {error}"
            raise BadRequest(text, "messages") from None
        return len(tokens)

    def _checked(self, asked: Asked, body: dict[str, Any], length: int) -> dict[str, Any]:
        """What goes to mlx-lm in place of what was said."""
        names, context = self.served.names, self.served.context
        if asked.model is not None and asked.model not in names:
            text = f"there is no model {asked.model[:200]!r} here; there is {', '.join(names)}"
            raise BadRequest(text, "model", "model_not_found", 404)
        if body.get("adapters") or body.get("draft_model"):
            raise BadRequest("adapters and draft_model cannot be chosen by a request")
        if asked.answers != 1:
            raise BadRequest("n can be 1 only: one answer a request", "n", "unsupported_parameter")
        most = asked.sampling.max_tokens
        if length + (most or 1) > context:
            raise BadRequest(
                f"this model's context is {context} tokens; the prompt has {length} and {most or 'at least 1'} are "
                "asked for",
                "messages",
                "context_length_exceeded",
            )
        wanted = most or min(context - length, self.response_generator.cli_args.max_tokens)
        for name in [name for name, value in body.items() if value is None]:  # null means: as usual
            del body[name]
        body.pop("max_completion_tokens", None)
        if asked.sampling.top_k is not None:
            body["top_k"] = asked.sampling.top_k
        if self.served.repetition is not None:
            body.setdefault("repetition_penalty", self.served.repetition)
        return {"model": asked.model or names[0], "max_tokens": wanted}

    def generate_response(self, *said: Any, **named: Any) -> dict[str, Any]:
        """mlx-lm's answer; one without a word is an empty text, and nothing only beside calls of tools."""
        made: dict[str, Any] = super().generate_response(*said, **named)
        for choice in made["choices"]:
            message = choice.get("message")
            if message is not None and message.get("content") is None and not message.get("tool_calls"):
                message["content"] = ""
        return made

    def _set_completion_headers(self, status_code: int = 200) -> None:
        """mlx-lm begins an answer; if it is a refusal, its reason is the exception that is being handled."""
        if status_code >= 400:
            reason = sys.exception()
            if isinstance(reason, ValueError | AssertionError):
                raise BadRequest(_line(reason))
            raise _failed(reason)
        super()._set_completion_headers(status_code)

    def _set_stream_headers(self, status_code: int = 200) -> None:
        self._streaming = True
        super()._set_stream_headers(status_code)

    def _set_cors_headers(self) -> None:
        """None: no web page may read an answer."""

    def _refuse(self, error: BadRequest) -> None:
        self.close_connection = True
        if self._streaming:  # the head is sent: the error is an event
            self.wfile.write(b"data: " + json.dumps(error.body()).encode() + b"\n\n")
        else:
            self._answer(error.status, error.body())

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


def _failed(error: BaseException | None) -> BadRequest:
    return BadRequest(
        f"the engine failed: {_line(error)}", code="engine_failed", status=500, kind="server_error"
    )


def _line(error: BaseException | None) -> str:
    said = str(error) if error is not None else ""
    return said.partition("\n")[0][:300] or type(error).__name__
