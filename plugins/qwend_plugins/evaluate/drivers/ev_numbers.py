"""Log-likelihoods and divergences from logits, by the arithmetic and the file format of llama-perplexity.

A file of logits holds: `_logits_`, then as 32-bit integers the window's length, the vocabulary, the count of windows
and their tokens; then for each scored position two 32-bit floats (scale, lowest log-probability) and the vocabulary's
log-probabilities in 16 bits, `lowest + scale * q`. What lies 16 below the highest logit counts as the lowest.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from ev_common import LOGITS, EvalError, LogitsHead

BLOCK = 16  # positions at once: 16 rows of Qwen's vocabulary are 10 MB as 32-bit floats


def scored(context: int) -> int:
    """How many positions of a window are scored: those of its second half, each predicting the next."""
    return context - 1 - context // 2


def row_words(vocabulary: int) -> int:
    """16-bit words of one position in a file of logits."""
    return 2 * ((vocabulary + 1) // 2) + 4


def log_sum(logits: Any) -> Any:
    """log(sum(exp)) of each row, in double precision."""
    highest = logits.max(axis=1)
    return highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1, dtype=np.float64))


@dataclass
class Likelihood:
    """Sums over scored positions."""

    total: float = 0.0
    squares: float = 0.0
    count: int = 0

    def add(self, values: Any) -> None:
        """Negative log-likelihoods of the tokens that came."""
        self.total += float(values.sum())
        self.squares += float((values * values).sum())
        self.count += len(values)

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        spread = self.squares / self.count - self.mean**2
        return math.sqrt(spread / (self.count - 1)) if spread > 0 and self.count > 1 else 0.0

    def figures(self) -> dict[str, float]:
        perplexity = math.exp(self.mean) if self.mean < 700 else math.inf
        return {"perplexity": perplexity, "perplexity_error": perplexity * self.error}


@dataclass
class Divergence:
    """Sums and values of a comparison with the reference's log-probabilities."""

    own: Likelihood = field(default_factory=Likelihood)
    base: Likelihood = field(default_factory=Likelihood)
    values: list[float] = field(default_factory=list)
    same_top: int = 0
    squares: float = 0.0

    def figures(self) -> dict[str, float]:
        """Those that llama-perplexity prints; shares are fractions."""
        values = np.asarray(self.values)
        count = len(values)
        return {
            **self.own.figures(),
            "perplexity_ratio": math.exp(self.own.mean - self.base.mean),
            "mean_kld": float(values.mean()),
            "mean_kld_error": float(values.std() / math.sqrt(max(1, count - 1))),
            "median_kld": float(np.median(values)),
            "p99_kld": float(np.quantile(values, 0.99)),
            "max_kld": float(values.max()),
            "same_top": self.same_top / count,
            "rms_dp": math.sqrt(self.squares / count),
        }


def score(logits: Any, targets: Any, found: Likelihood, out: IO[bytes] | None = None) -> None:
    """Adds the rows of `logits` (32-bit floats, a row a position) that predict `targets`; writes them to `out`."""
    for rows, wanted in _blocks(logits, targets):
        sums = log_sum(rows)
        found.add(sums - rows[np.arange(len(rows)), wanted])
        if out is not None:
            out.write(packed(rows, sums))


def packed(rows: Any, sums: Any) -> bytes:
    """Rows as they stand in a file of logits."""
    count, vocabulary = rows.shape
    highest = rows.max(axis=1)
    lowest = np.maximum(rows.min(axis=1), highest - 16).astype(np.float32)
    scale = ((highest - lowest) / np.float32(65535)).astype(np.float32)
    words = np.zeros((count, row_words(vocabulary)), dtype="<u2")
    head = np.stack([scale, (lowest - sums).astype(np.float32)], axis=1).astype("<f4")
    words[:, :4] = head.view("<u2")
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    steps = np.rint((rows - lowest[:, None]) * inverse[:, None])
    words[:, 4 : 4 + vocabulary] = np.clip(steps, 0, 65535).astype("<u2")
    return bytes(words)


def diverge(logits: Any, targets: Any, words: Any, found: Divergence) -> None:
    """Adds rows that are compared with `words`, the reference's rows as they stand in its file."""
    vocabulary = logits.shape[1]
    for at, (rows, wanted) in zip(range(0, len(logits), BLOCK), _blocks(logits, targets), strict=True):
        base = words[at : at + BLOCK]
        head = np.ascontiguousarray(base[:, :4]).view("<f4")
        steps = base[:, 4 : 4 + vocabulary].astype(np.float32)
        reference = steps * head[:, :1] + head[:, 1:2]
        own = rows - log_sum(rows)[:, None].astype(np.float32)
        weights = np.where(reference > -16, np.exp(reference), 0)
        apart = (weights * (reference - own)).sum(axis=1, dtype=np.float64)
        index = np.arange(len(rows))
        here, there = own[index, wanted], reference[index, wanted]
        found.own.add(-here.astype(np.float64))
        found.base.add(-there.astype(np.float64))
        found.values += apart.tolist()
        found.same_top += int((own.argmax(axis=1) == reference.argmax(axis=1)).sum())
        found.squares += float(((np.exp(here) - np.exp(there)) ** 2).sum())


def _blocks(logits: Any, targets: Any) -> Iterator[tuple[Any, Any]]:
    for at in range(0, len(logits), BLOCK):
        yield np.asarray(logits[at : at + BLOCK], dtype=np.float32), np.asarray(targets[at : at + BLOCK])


def write_head(out: IO[bytes], context: int, vocabulary: int, tokens: list[int]) -> None:
    out.write(LOGITS + struct.pack("<3i", context, vocabulary, len(tokens) // context))
    out.write(np.asarray(tokens, dtype="<i4").tobytes())


@dataclass
class Base:
    """A file of logits, opened at its first row."""

    file: IO[bytes]
    head: LogitsHead

    def window(self) -> Any:
        """The rows of the next window."""
        shape = (scored(self.head.context), row_words(self.head.vocabulary))
        data = self.file.read(2 * shape[0] * shape[1])
        if len(data) < 2 * shape[0] * shape[1]:
            raise EvalError("the reference's file of logits is cut short", "make it again")
        return np.frombuffer(data, dtype="<u2").reshape(shape)
