"""Measure a model by what it says: how fast it reads and writes, and its answers to fixed prompts.

The same for every program that runs a model, a `Talker`; standard library only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, Protocol

from ev_common import Measured, Settings, progress


class Talker(Protocol):
    """A model that reads and writes tokens, which are integers."""

    name: str

    def tokens(self, text: str) -> list[int]:
        """The text as tokens; words that look like special tokens are words."""
        ...

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        """A conversation as the model's own template has it, up to where it answers."""
        ...

    def timed(self, batch: int, length: int, generate: int) -> tuple[float, float]:
        """Seconds until the first token, and for `generate` further ones, of `batch` prompts of `length` tokens."""
        ...

    def greedy(self, tokens: Sequence[int], most: int) -> list[int]:
        """The answer of at most `most` tokens, each the likeliest; it ends where the model ends it."""
        ...

    def words(self, tokens: Sequence[int]) -> str:
        """Tokens as text."""
        ...

    def peak(self) -> int:
        """The most bytes of memory taken so far: the card's where it runs on one."""
        ...


def speed(net: Talker, settings: Settings) -> Measured:
    """Seconds and tokens per second for each length of prompt and batch, the best of `repeats`."""
    rows: list[dict[str, float]] = []
    shapes = [(length, batch) for length in settings.lengths for batch in settings.batch_sizes]
    net.timed(1, 8, 2)  # warms caches and kernels
    for index, (length, batch) in enumerate(shapes):
        runs = [net.timed(batch, length, settings.generate) for _ in range(settings.repeats)]
        first, rest = min(runs, key=sum)
        rows.append(speed_row(length, batch, settings.generate, first, rest, net.peak()))
        progress(net.name, index + 1, len(shapes), "runs")
    return Measured(speed_figures(rows), speed=rows)


def speed_row(
    length: int, batch: int, generate: int, first: float, rest: float, peak: float
) -> dict[str, float]:
    """One line of the table. `first` are seconds to the first token, `rest` those of the others."""
    return {
        "input_length": length,
        "batch": batch,
        "prompt_speed": batch * length / first,
        "generation_speed": batch * generate / rest,
        "time_to_first_token": first,
        "peak_memory": peak,
    }


def speed_figures(rows: list[dict[str, float]]) -> dict[str, float]:
    """The figures of gates: generation at the shortest prompt, reading at the longest, one prompt at a time; and the
    same of each line (`generation_speed_at_6144`, `_at_6144x4`)."""
    batch = min(row["batch"] for row in rows)
    single = [row for row in rows if row["batch"] == batch]
    shortest = min(single, key=lambda row: row["input_length"])
    longest = max(single, key=lambda row: row["input_length"])
    figures = {
        "generation_speed": shortest["generation_speed"],
        "prompt_speed": longest["prompt_speed"],
        "time_to_first_token": longest["time_to_first_token"],
        "peak_memory": max(row["peak_memory"] for row in rows),
    }
    for row in rows:
        at = f"{row['input_length']:.0f}" + (f"x{row['batch']:.0f}" if row["batch"] > 1 else "")
        for name in ("generation_speed", "prompt_speed", "time_to_first_token"):
            figures[f"{name}_at_{at}"] = row[name]
    return figures


def answers(net: Talker, prompts: list[Any], settings: Settings) -> Measured:
    """Each prompt as the model sees it, and its answer, both as tokens."""
    found = []
    for index, prompt in enumerate(prompts):
        raw = settings.template == "none"
        tokens = net.tokens(raw_text(prompt)) if raw else net.render(messages_of(prompt))
        answer = net.greedy(tokens, settings.max_tokens)
        found.append({"prompt": prompt, "tokens": tokens, "answer": answer, "text": net.words(answer)})
        progress(net.name, index + 1, len(prompts), "prompts")
    return Measured(answers=found)


def messages_of(prompt: Any) -> list[dict[str, str]]:
    return prompt if isinstance(prompt, list) else [{"role": "user", "content": str(prompt)}]


def raw_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(str(message["content"]) for message in prompt)


def random_tokens(count: int, vocabulary: int) -> list[int]:
    """Tokens that mean nothing, the same each time: what a prompt says does not change how long it takes."""
    draw = random.Random(count)
    return [draw.randrange(256, min(vocabulary, 100_000)) for _ in range(count)]


def clock() -> float:
    return time.perf_counter()
