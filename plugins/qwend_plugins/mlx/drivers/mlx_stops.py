"""Stop texts over mlx-lm's events, wherever they stand in the text. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from answer_text import StopFilter


def until(news: Iterable[Any], stops: Sequence[str]) -> Iterator[Any]:
    """mlx-lm's events (one a token; the text of one with finish_reason "stop" is not shown) up to a stop text.

    An event waits for the next one: where an answer ends by itself, it takes what was held back as a possible stop.
    """
    found = StopFilter(stops)
    waiting = None
    for event in news:
        if event.finish_reason == "stop":
            rest = found.rest()
            if waiting is not None:
                yield replace(waiting, text=waiting.text + rest)
            yield event
            return
        text = found.add(event.text)
        if waiting is not None:
            yield waiting
        if found.stopped:
            yield replace(event, text=text, finish_reason=None)
            return
        if event.finish_reason is not None:
            yield replace(event, text=text + found.rest())
            return
        waiting = replace(event, text=text)
    if waiting is not None:
        yield waiting
