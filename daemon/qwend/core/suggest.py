"""Did you mean …? Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import islice

from qwend.core.wording import show

_LONGEST = 64
_SAME = {"gpu": "cuda", "nvidia": "cuda", "metal": "apple", "mps": "apple", "mac": "apple"}
"""Other people's words for devices: `gpu` looks like `cpu` and is not meant so."""
_MOST = 4096


def closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that `word` most looks like; of equally close ones the first. None if none is close.

    Words and lists of hostile length are not compared: the cost is bounded.
    """
    if not word or len(word) > _LONGEST:
        return None
    known = list(islice(known, _MOST))
    lowered = word.lower()
    if _SAME.get(lowered) in known and lowered not in known:
        return _SAME[lowered]
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(lowered)
    best, best_score = None, cutoff
    for candidate in known:
        if candidate.lower() == lowered:
            return candidate
        matcher.set_seq1(candidate.lower())
        if matcher.real_quick_ratio() < best_score or matcher.quick_ratio() < best_score:
            continue
        score = matcher.ratio()
        if score > best_score or (score == best_score and best is None):
            best, best_score = candidate, score
    return best


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing."""
    found = closest(word, known)
    return f"; did you mean {show(found)}?" if found else ""
