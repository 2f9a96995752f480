"""A conversation with a service that speaks OpenAI's API: HTTP on a plain connection, streamed, light to import.

    talk = Conversation(Endpoint("http://127.0.0.1:18100", "chat"))
    for piece in talk.ask("Hi"):
        print(piece.text, end="")

Whoever stops iterating (an exception, `close()`) closes the connection, and the server stops generating.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from qwend.errors import QwendError, Unreachable, UsageError

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 600.0
"""Between two pieces: a long prompt on a slow machine takes minutes before its first token."""

Message = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """A part of an answer, or of the thinking before it."""

    kind: Literal["text", "thought"]
    text: str


@dataclass
class Figures:
    """What the last answer took. Seconds; `tokens` is None where the server does not tell."""

    tokens: int | None = None
    prompt_tokens: int | None = None
    first_s: float | None = None
    seconds: float = 0.0
    finish: str | None = None

    @property
    def rate(self) -> float | None:
        """Tokens a second, from the first one on."""
        if self.tokens is None or self.first_s is None or self.tokens < 2:
            return None
        spent = self.seconds - self.first_s
        return (self.tokens - 1) / spent if spent > 0 else None


@dataclass(frozen=True)
class Endpoint:
    """Where a service listens (`http://host:port`), its model's name, and the API key that it demands."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)

    def stream(self, messages: list[Message], settings: dict[str, Any], figures: Figures) -> Iterator[Piece]:
        """The pieces of one answer. Raises QwendError with the server's own words, Unreachable if it is gone."""
        import http.client  # 15 ms, which no other command should pay

        body = {"model": self.model, "messages": messages, "stream": True, **settings}
        body.setdefault("stream_options", {"include_usage": True})
        begun = time.monotonic()
        connection = http.client.HTTPConnection(self._address(), timeout=CONNECT_TIMEOUT_S)
        answer: http.client.HTTPResponse | None = None
        try:
            connection.connect()
            connection.sock.settimeout(ANSWER_TIMEOUT_S)
            connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), self._headers())
            answer = connection.getresponse()
            if answer.status != 200:
                raise _refused(answer.status, answer.read(1 << 20))
            for event in _events(answer):
                yield from _pieces(event, figures, begun)
        except (OSError, http.client.HTTPException) as error:
            raise _gone(self.url, error) from None
        finally:
            if answer is not None:
                answer.close()  # the socket is its own once the head is read
            connection.close()
            figures.seconds = time.monotonic() - begun

    def _address(self) -> str:
        scheme, _, rest = self.url.partition("://")
        if scheme != "http" or not rest:
            raise UsageError(f"{self.url} is no http address", code="bad-url")
        return rest.rstrip("/")

    def _headers(self) -> dict[str, str]:
        made = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        return made | ({"Authorization": f"Bearer {self.key}"} if self.key else {})


@dataclass
class Conversation:
    """What was said. `settings` go with every question (`temperature`, `max_tokens`)."""

    endpoint: Endpoint
    system: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)

    def ask(self, text: str) -> Generator[Piece, None, None]:
        """Asks and gives the answer as it comes. Both become part of the conversation when the answer ends, also
        one that was interrupted (then as far as it got); a question that failed leaves no trace."""
        question = {"role": "user", "content": text}
        self.figures = Figures()
        said: list[str] = []
        try:
            for piece in self.endpoint.stream([*self.whole(), question], self.settings, self.figures):
                if piece.kind == "text":
                    said.append(piece.text)
                yield piece
        except QwendError:
            raise
        except BaseException:  # interrupted: what was said stands
            self._note(question, said)
            raise
        self._note(question, said)

    def _note(self, question: Message, said: list[str]) -> None:
        self.messages += [question, {"role": "assistant", "content": "".join(said)}]

    def whole(self) -> list[Message]:
        """Everything that the model is given besides the next question."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.messages]

    def clear(self) -> None:
        """Forgets all but the system's words."""
        self.messages = []

    def text(self, path: str) -> str:
        """The conversation as it is saved: JSON messages for `.json`, Markdown for `.md`, one JSON line (a row to
        train on) for `.jsonl`. Raises UsageError for another ending."""
        whole = self.whole()
        if path.endswith(".jsonl"):
            return json.dumps({"messages": whole}, ensure_ascii=False) + "\n"
        if path.endswith(".json"):
            return (
                json.dumps({"model": self.endpoint.model, "messages": whole}, ensure_ascii=False, indent=1)
                + "\n"
            )
        if path.endswith(".md"):
            return "\n\n".join(f"**{one['role']}**\n\n{one['content']}" for one in whole) + "\n"
        raise UsageError(
            f"{path}: what form should it have?", code="bad-form", hint="end it in .json, .jsonl or .md"
        )


def _events(answer: Any) -> Iterator[dict[str, Any]]:
    """The objects of a stream of server-sent events, until [DONE] or its end."""
    for raw in answer:
        line = raw.decode("utf-8", "replace").strip()
        if not line.startswith("data:"):
            continue  # a comment that keeps the connection open, or an event's name
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:
            raise QwendError("the service's answer is no JSON", code="bad-answer") from None
        if isinstance(event, dict):
            if event.get("error"):
                raise _worded(event, None)
            yield event


def _pieces(event: dict[str, Any], figures: Figures, begun: float) -> Iterator[Piece]:
    usage = event.get("usage")
    if isinstance(usage, dict):
        figures.tokens = usage.get("completion_tokens", figures.tokens)
        figures.prompt_tokens = usage.get("prompt_tokens", figures.prompt_tokens)
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        figures.finish = choice.get("finish_reason") or figures.finish
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        for kind, text in (("thought", thought), ("text", delta.get("content"))):
            if isinstance(text, str) and text:
                if figures.first_s is None:
                    figures.first_s = time.monotonic() - begun
                yield Piece("thought" if kind == "thought" else "text", text)


def _refused(status: int, body: bytes) -> QwendError:
    try:
        said = json.loads(body)
    except ValueError:
        said = {}
    return _worded(said if isinstance(said, dict) else {}, status)


def _worded(said: dict[str, Any], status: int | None) -> QwendError:
    """The server's own reason in one line, whatever shape it has."""
    error = said.get("error")
    message = (
        error.get("message")
        if isinstance(error, dict)
        else error or said.get("detail") or said.get("message")
    )
    text = " ".join(str(message).split()) if message else f"the service answered {status}"
    hint = None
    if status == 401:
        hint = "--secret api_key=@FILE"
    elif any(word in text.lower() for word in ("context", "max_model_len", "maximum model length")):
        hint = "/clear begins anew"
    return QwendError(
        text[:1000], code="refused" if status is None or status < 500 else "engine-failed", hint=hint
    )


def _gone(url: str, error: Exception) -> Unreachable:
    why = "does not answer" if isinstance(error, TimeoutError) else "is gone"
    return Unreachable(f"the service at {url} {why}", code="service-gone", hint="`qwend ps` shows what runs")
