"""What is served, the thread that generates one answer after the other, and the server around them.

Whoever serves brings an `Engine`; the API is the same for all of them. Standard library only, without qwend.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from answer_text import Answer, Piece, Splitter
from openai_requests import BadRequest, Chat, Sampling


@dataclass(frozen=True)
class Prompt:
    """A chat as the model reads it; `thinking` if its answer begins inside of <think>."""

    tokens: list[int]
    thinking: bool = False


class Engine(Protocol):
    """What answers. `context`: tokens of prompt and answer together; `vocabulary`: how many tokens there are;
    `most`: tokens of an answer where a request names none (None: as many as the context leaves)."""

    context: int
    vocabulary: int
    most: int | None

    def prompt(self, chat: Chat) -> Prompt:
        """The chat by the model's template; raises BadRequest where that refuses it. Called by many threads."""

    def encode(self, text: str) -> list[int]:
        """A text as tokens, with what the tokenizer puts in front of every text. Called by many threads."""

    def answer(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        give: Callable[[Piece], None],
        *,
        splitter: Splitter,
        cancelled: threading.Event,
    ) -> Answer:
        """Answer one prompt; `give` gets the pieces as they come. Called by one thread alone."""


@dataclass
class Service:
    """What is served. `names`: the first is the model's own, the others are aliases."""

    engine: Engine
    names: tuple[str, ...]
    key: str | None = None
    waiting: int = 256
    thoughts: bool = False
    started: int = field(default_factory=lambda: int(time.time()))


@dataclass
class Job:
    """One answer that is wanted. `news` gets pieces, then the Answer or the exception."""

    prompt: list[int]
    sampling: Sampling
    splitter: Splitter
    news: queue.Queue[Piece | Answer | Exception] = field(default_factory=queue.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)


class Worker(threading.Thread):
    """Generates one answer after the other."""

    def __init__(self, engine: Engine, most: int) -> None:
        super().__init__(name="generate", daemon=True)
        self._engine = engine
        self._jobs: queue.Queue[Job] = queue.Queue(most)

    def ask(self, job: Job) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            text = f"{self._jobs.maxsize} requests are waiting already"
            raise BadRequest(text, code="overloaded", status=503, kind="server_error") from None

    def run(self) -> None:
        while True:
            job = self._jobs.get()
            if job.cancelled.is_set():
                continue
            try:
                made = self._engine.answer(
                    job.prompt,
                    job.sampling,
                    job.news.put,
                    splitter=job.splitter,
                    cancelled=job.cancelled,
                )
                job.news.put(made)
            except Exception as error:  # told to who asked; the server goes on
                traceback.print_exc()
                job.news.put(error)


class Server(ThreadingHTTPServer):
    """The server on a socket that is bound already. It listens at once and answers 503 until there is a service, so
    that nobody can take the port while a model is loaded."""

    daemon_threads = True

    def __init__(self, bound: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(bound.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self._service: Service | None = None
        self._worker: Worker | None = None
        self.server_activate()

    def begin(self, service: Service) -> None:
        """From now on requests are answered."""
        self._worker = Worker(service.engine, service.waiting)
        self._worker.start()
        self._service = service

    @property
    def service(self) -> Service:
        if self._service is None:
            raise BadRequest("the model is being loaded", code="loading", status=503, kind="server_error")
        return self._service

    @property
    def worker(self) -> Worker:
        assert self._worker is not None, "a request got through before there was a service"
        return self._worker
