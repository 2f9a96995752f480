"""Measure a model by its logits: the windows of llama-perplexity over any model that a function can run.

Which library runs the model is the business of the caller, a `Net`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from ev_common import (
    EvalError,
    Measured,
    Settings,
    check_base,
    progress,
    read_logits_head,
    tokens_digest,
    window_count,
)
from ev_numbers import Base, Divergence, Likelihood, diverge, score, write_head
from ev_talk import Talker


class Net(Talker, Protocol):
    """A model whose logits can be had: 32-bit floats, a row a position."""

    vocabulary: int

    def begin(self) -> int | None:
        """The token that a text begins with; None if there is none."""
        ...

    def logits(self, tokens: Sequence[int], last: int) -> Any:
        """Logits after the last `last` of `tokens`."""
        ...


def windows_of(net: Net, tokens: Sequence[int], context: int) -> list[list[int]]:
    """Windows side by side; a model whose texts begin with a token of their own sees it first in each."""
    begin = net.begin()
    found = [list(tokens[at : at + context]) for at in range(0, len(tokens) - context + 1, context)]
    if begin is not None:
        for window in found:
            window[0] = begin
    return found


def perplexity(net: Net, text: str, settings: Settings, save: Path | None = None) -> Measured:
    """As llama-perplexity has it; logits go to `save` in its format."""
    tokens, context = net.tokens(text), settings.context
    count = window_count(len(tokens), context, settings.chunks)
    tokens = tokens[: count * context]
    found = Likelihood()
    out: IO[bytes] | None = save.open("wb") if save is not None else None
    try:
        if out is not None:
            write_head(out, context, net.vocabulary, tokens)
        for index, window in enumerate(windows_of(net, tokens, context)):
            score(_logits(net, window), window[context // 2 + 1 :], found, out)
            progress(net.name, index + 1, count, "windows")
    finally:
        if out is not None:
            out.close()
    return Measured(found.figures(), tokens_digest(tokens), count)


def divergence(net: Net, path: Path, settings: Settings) -> Measured:
    """Divergence from the logits in `path`, over its windows."""
    with path.open("rb") as file:
        head = read_logits_head(file, path.name)
        check_base(head, settings.context)
        if head.vocabulary != net.vocabulary:
            raise EvalError(
                f"{net.name} has a vocabulary of {net.vocabulary}, the reference one of {head.vocabulary}",
                "compare kin of one base model",
            )
        base, found = Base(file, head), Divergence()
        for index, window in enumerate(windows_of(net, head.tokens, head.context)):
            diverge(_logits(net, window), window[head.context // 2 + 1 :], base.window(), found)
            progress(net.name, index + 1, head.windows, "windows")
    return Measured(found.figures(), tokens_digest(head.tokens), head.windows)


def _logits(net: Net, window: list[int]) -> Any:
    """The scored rows of a window: those of its second half but the last, which predicts nothing known."""
    return net.logits(window, len(window) - len(window) // 2)[:-1]
