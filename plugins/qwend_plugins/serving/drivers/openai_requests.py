"""Read OpenAI requests: what a client may say, in which range, and how it is told what is wrong.

Standard library only. What this server cannot do is refused by name, never passed over, unless it cannot change the
answer (`user`, `metadata`, `store`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_REFUSED = ("logprobs", "top_logprobs", "functions", "function_call", "audio", "prediction", "echo", "suffix")
_ROLES = ("system", "developer", "user", "assistant", "tool")
MOST_ANSWERS = 16


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; None leaves it to the model's own generation_config.json.

    `max_tokens` is as OpenAI's; the penalties lower the logit of a token by `presence` once it was given and by
    `frequency` each time; `bias` adds to logits by token.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition: float | None = None
    presence: float = 0.0
    frequency: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    bias: tuple[tuple[int, float], ...] = ()


class BadRequest(Exception):
    """A request that is refused: the sentence, the field, OpenAI's code and HTTP's status."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status, self.kind = param, code, status, kind

    def body(self) -> dict[str, Any]:
        """The answer in OpenAI's shape."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """What every request says: the model, how to sample, how many answers, whether to stream and to tell the usage."""

    model: str | None
    sampling: Sampling
    answers: int
    stream: bool
    usage: bool


@dataclass(frozen=True)
class Chat:
    """A request to /v1/chat/completions; `options` go to the chat template."""

    asked: Asked
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    options: dict[str, Any]


def read_body(data: bytes) -> dict[str, Any]:
    """The JSON object of a request."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequest("the request is no JSON") from None
    if not isinstance(body, dict):
        raise BadRequest("the request should be a JSON object")
    return body


def read_chat(body: Mapping[str, Any]) -> Chat:
    """A chat request; raises BadRequest."""
    tools, choice = body.get("tools") or None, body.get("tool_choice", "auto")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise BadRequest("tools should be a list of objects", "tools")
    if choice not in ("auto", "none", None):
        raise BadRequest("tool_choice can be auto or none here: a call cannot be forced", "tool_choice")
    options = body.get("chat_template_kwargs") or {}
    if not isinstance(options, dict):
        raise BadRequest("chat_template_kwargs should be an object", "chat_template_kwargs")
    most = body.get("max_completion_tokens")
    asked = _asked(body, "max_completion_tokens" if most is not None else "max_tokens")
    return Chat(asked, _messages(body.get("messages")), None if choice == "none" else tools, options)


def read_completion(body: Mapping[str, Any]) -> tuple[Asked, list[str | list[int]]]:
    """A request to /v1/completions and its prompts, as text or tokens; raises BadRequest."""
    said = body.get("prompt")
    prompts: list[Any] = (
        [said] if isinstance(said, str) or _tokens(said) else said if isinstance(said, list) else []
    )
    if not prompts or not all(isinstance(one, str) or _tokens(one) for one in prompts):
        raise BadRequest("prompt should be a text, a list of texts, or tokens", "prompt")
    return _asked(body, "max_tokens", default=16), prompts


def _tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


def _asked(body: Mapping[str, Any], most: str, default: int | None = None) -> Asked:
    for name in _REFUSED:
        if body.get(name):
            raise BadRequest(f"{name} is not supported by this server", name, "unsupported_parameter")
    form = body.get("response_format")
    if form is not None and form != {"type": "text"}:
        raise BadRequest("response_format can be text only here", "response_format", "unsupported_parameter")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest("model should be a name", "model")
    options = body.get("stream_options") or {}
    sampling = Sampling(
        max_tokens=_whole(body, most, 1, None) or default,
        temperature=_number(body, "temperature", 0, 2),
        top_p=_number(body, "top_p", 0, 1, open_low=True),
        top_k=_top_k(body),
        min_p=_number(body, "min_p", 0, 1),
        repetition=_number(body, "repetition_penalty", 0, 10, open_low=True),
        presence=_number(body, "presence_penalty", -2, 2) or 0.0,
        frequency=_number(body, "frequency_penalty", -2, 2) or 0.0,
        seed=_whole(body, "seed", -(2**63), 2**63 - 1),
        stop=_stop(body.get("stop")),
        bias=_bias(body.get("logit_bias")),
    )
    return Asked(
        model,
        sampling,
        _whole(body, "n", 1, MOST_ANSWERS) or 1,
        _flag(body, "stream"),
        isinstance(options, dict) and bool(options.get("include_usage")),
    )


def _top_k(body: Mapping[str, Any]) -> int | None:
    """-1 and 0 both mean "all tokens", as elsewhere."""
    said = _whole(body, "top_k", -1, None)
    return None if said is None else max(0, said)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name} should be true or false", name)
    return bool(value)


def _number(
    body: Mapping[str, Any], name: str, low: float, high: float, *, open_low: bool = False
) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(f"{name} should be a number", name)
    if not (low < value if open_low else low <= value) or not value <= high:
        above = f"more than {low:g}" if open_low else f"{low:g}"
        raise BadRequest(f"{name} should be {above} to {high:g}; it is {value:g}", name)
    return float(value)


def _whole(body: Mapping[str, Any], name: str, low: int, high: int | None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise BadRequest(f"{name} should be a whole number", name)
    if value < low or (high is not None and value > high):
        raise BadRequest(
            f"{name} should be {f'{low} to {high}' if high is not None else f'at least {low}'}; it is {value}",
            name,
        )
    return value


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or not all(isinstance(stop, str) and stop for stop in stops)
        or len(stops) > 16
    ):
        raise BadRequest("stop should be a text, or a list of at most 16", "stop")
    return tuple(stops)


def _bias(value: Any) -> tuple[tuple[int, float], ...]:
    if value is None:
        return ()
    try:
        pairs = tuple((int(token), float(bias)) for token, bias in value.items())
    except (AttributeError, TypeError, ValueError):
        raise BadRequest("logit_bias should map tokens to numbers", "logit_bias") from None
    if not all(token >= 0 and -100 <= bias <= 100 for token, bias in pairs):
        raise BadRequest("logit_bias takes tokens from 0 and numbers from -100 to 100", "logit_bias")
    return pairs


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise BadRequest("messages should be a list with at least one message", "messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(value)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise BadRequest(f"{where} should be an object", where)
    role = message.get("role")
    if role not in _ROLES:
        raise BadRequest(f"{where}.role should be one of {', '.join(_ROLES)}", f"{where}.role")
    made: dict[str, Any] = {"role": "system" if role == "developer" else role}
    calls = message.get("tool_calls")
    if calls:
        made["tool_calls"] = _calls(calls, f"{where}.tool_calls")
    made["content"] = _content(message.get("content"), f"{where}.content", empty=bool(calls))
    return made | {key: message[key] for key in ("name", "tool_call_id") if isinstance(message.get(key), str)}


def _content(value: Any, where: str, *, empty: bool) -> str:
    if isinstance(value, str):
        return value
    if value is None and empty:
        return ""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        kinds = {str(part.get("type")) for part in value} - {"text"}
        if kinds:
            raise BadRequest(f"{where}: this model reads text, and no {', '.join(sorted(kinds))}", where)
        return "".join(str(part.get("text", "")) for part in value)
    raise BadRequest(f"{where} should be a text", where)


def _calls(calls: Any, where: str) -> Sequence[dict[str, Any]]:
    """Tool calls of an earlier turn; templates want the arguments as a mapping."""
    try:
        made = []
        for call in calls:
            said = call["function"]["arguments"]
            arguments = json.loads(said) if isinstance(said, str) else said
            made.append(
                {"type": "function", "function": {"name": call["function"]["name"], "arguments": arguments}}
            )
        return made
    except (TypeError, KeyError, ValueError):
        raise BadRequest(
            f"{where} should be calls with a function's name and JSON arguments", where
        ) from None
