"""One thread that generates one answer after the other, in the order in which they were asked for.

torch computes one batch at a time; vLLM is the engine for many users at once. Runs inside the image, without qwend.
"""

from __future__ import annotations

import queue
import threading
import traceback
from dataclasses import dataclass, field

from answer_text import Piece, Splitter
from openai_requests import BadRequest, Sampling
from tf_generate import Answer, answer
from tf_load import Loaded


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
