"""The shapes of OpenAI's answers: whole ones, and the events of a stream. Runs inside the image, without qwend."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

from answer_text import Answer, Piece


def envelope(kind: str, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    mark = "cmpl" if kind.startswith("text") else "chatcmpl"
    made: dict[str, Any] = {"id": f"{mark}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}
    return made | {"model": name, "choices": choices}


def usage(answers: list[Answer], prompts: int) -> dict[str, int]:
    """Tokens of all answers; several answers to one prompt count its tokens once."""
    each = max(1, len(answers) // max(1, prompts))
    prompt, made = sum(one.prompt_tokens for one in answers[::each]), sum(one.tokens for one in answers)
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def _call(index: int, piece: Piece) -> dict[str, Any]:
    made = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
    return made | {"index": index, "function": {"name": piece.name, "arguments": piece.text}}


def chat_choice(index: int, made: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": made.text}
    if thoughts := "".join(piece.text for piece in made.pieces if piece.kind == "thought"):
        message["reasoning_content"] = thoughts
    calls = [piece for piece in made.pieces if piece.kind == "call"]
    if calls:
        message["tool_calls"] = [_call(at, piece) for at, piece in enumerate(calls)]
        message["content"] = made.text or None
    finish = "tool_calls" if calls and made.finish == "stop" else made.finish
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


def text_choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


class ChatEvents:
    """The events of a streamed chat: a role, pieces, a reason to finish."""

    def __init__(self, name: str) -> None:
        self._head = envelope("chat.completion.chunk", name, [])
        self._begun: set[int] = set()
        self._calls: dict[int, int] = {}

    def envelope(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"choices": choices}

    def choices(self, index: int, item: Piece | Answer) -> Iterator[dict[str, Any]]:
        if index not in self._begun:
            self._begun.add(index)
            yield self._delta(index, {"role": "assistant", "content": ""})
        if isinstance(item, Answer):
            called = self._calls.get(index) and item.finish == "stop"
            yield self._delta(index, {}, "tool_calls" if called else item.finish)
        elif item.kind == "call":
            at = self._calls.get(index, 0)
            self._calls[index] = at + 1
            yield self._delta(index, {"tool_calls": [_call(at, item)]})
        else:
            yield self._delta(
                index, {"reasoning_content" if item.kind == "thought" else "content": item.text}
            )

    @staticmethod
    def _delta(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


class TextEvents:
    """The events of a streamed completion."""

    def __init__(self, name: str) -> None:
        self._head = envelope("text_completion", name, [])

    def envelope(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"choices": choices}

    def choices(self, index: int, item: Piece | Answer) -> Iterator[dict[str, Any]]:
        if isinstance(item, Answer):
            yield text_choice(index, "", item.finish)
        else:
            yield text_choice(index, item.text, None)
