"""What is served, the thread that generates one answer after the other, and the server around them.

torch computes one batch at a time; vLLM is the engine for many users at once. Runs inside the image, without qwend.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from answer_text import Piece, Splitter
from openai_requests import BadRequest, Sampling
from tf_generate import Answer, answer
from tf_load import Loaded


@dataclass
class Service:
    """What is served. `names`: the first is the model's own, the others are aliases."""

    loaded: Loaded
    names: tuple[str, ...]
    key: str | None = None
    waiting: int = 256
    thoughts: bool = False
    options: dict[str, Any] = field(default_factory=dict)
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

    def __init__(self, loaded: Loaded, most: int) -> None:
        super().__init__(name="generate", daemon=True)
        self._loaded = loaded
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
                made = answer(
                    self._loaded,
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
        self._worker = Worker(service.loaded, service.waiting)
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
