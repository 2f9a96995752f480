"""The OpenAI-compatible server over real HTTP: an engine that would go on for ever, and clients that leave."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Queue
from typing import Any

import pytest
from answer_text import Answer, Piece, Splitter
from openai_http import Handler
from openai_requests import Chat, Sampling
from openai_worker import Prompt, Server, Service

PATIENCE_S = 60.0


class Endless:
    """An engine that gives `max_tokens` words, or one after the other until it is told to stop."""

    context = 1_000_000
    vocabulary = 1000
    most: int | None = None

    def __init__(self) -> None:
        self.ended: Queue[str] = Queue()
        self.begun: Queue[None] = Queue()

    def prompt(self, chat: Chat) -> Prompt:
        return Prompt([1, 2, 3])

    def encode(self, text: str) -> list[int]:
        return [1]

    def answer(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        give: Callable[[Piece], None],
        *,
        splitter: Splitter,
        cancelled: threading.Event,
    ) -> Answer:
        made = Answer(len(prompt), finish="length")
        self.begun.put(None)
        while made.tokens < (sampling.max_tokens or 0):
            if made.tokens and cancelled.wait(0.01):
                made.finish = "cancelled"
                break
            made.pieces.append(Piece("text", "word "))
            made.tokens += 1
            give(made.pieces[-1])
        self.ended.put(made.finish)
        return made


@pytest.fixture
def engine() -> Endless:
    return Endless()


@pytest.fixture
def port(engine: Endless) -> Iterator[int]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = Server(bound.dup(), Handler)
        server.begin(Service(engine, ("chat",)))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def ask(port: int, **more: Any) -> http.client.HTTPConnection:
    """A request that is sent, and its connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1_000, **more}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection


def test_who_leaves_a_stream_ends_its_generation(port: int, engine: Endless) -> None:
    connection = ask(port, stream=True, max_tokens=500_000)
    answer = connection.getresponse()
    assert b"word " in answer.readline() + answer.readline() + answer.readline()
    answer.close()
    connection.close()
    assert engine.ended.get(timeout=PATIENCE_S) == "cancelled"


def test_who_leaves_before_a_whole_answer_is_there_ends_its_generation(port: int, engine: Endless) -> None:
    connection = ask(port, max_tokens=500_000)
    engine.begun.get(timeout=PATIENCE_S)
    connection.close()
    assert engine.ended.get(timeout=PATIENCE_S) == "cancelled"


def test_who_leaves_while_others_are_answered_is_never_answered(port: int, engine: Endless) -> None:
    first = ask(port, stream=True, max_tokens=500_000)
    engine.begun.get(timeout=PATIENCE_S)
    second = ask(port, max_tokens=500_000)
    second.close()
    third = ask(port, max_tokens=1)
    first.close()
    assert engine.ended.get(timeout=PATIENCE_S) == "cancelled"
    answer = json.load(third.getresponse())
    third.close()
    assert answer["choices"][0]["message"]["content"].strip() == "word"
    ends = [engine.ended.get(timeout=PATIENCE_S)]
    while ends[-1] == "cancelled":  # the second, if it was begun before its end was seen
        ends.append(engine.ended.get(timeout=PATIENCE_S))
    assert ends[-1] == "length"
