"""Plain scalars of YAML 1.2 under its core schema: `1e-5` is a number, `no` is a word. Pure."""

from __future__ import annotations

import re
from math import isinf
from typing import Final

from qwend.core.wording import show

WORDS: Final[dict[str, bool | None]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_NUMERIC_START: Final = frozenset("-+.0123456789")
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LONGEST_NUMBER = 400
is_wordlike = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*").fullmatch
"""Texts that are no number and no merge key, whatever the schema."""


def scalar(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar under the core schema of YAML 1.2 (chapter 10.3.2).

    Raises ValueError for a number that does not fit into 64 bits, or is infinite.
    """
    if text in WORDS:
        return WORDS[text]
    if text[0] not in _NUMERIC_START:
        return text
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INT.fullmatch(text):
        return _fitting(int(text))
    if _FLOAT.fullmatch(text):
        number = float(text)
        if isinf(number):
            raise ValueError(f"the number {show(text, 40)} is too large")
        return number
    if _BASED.fullmatch(text):
        return _fitting(int(text[2:], 8 if text[1] == "o" else 16))
    if _INFINITE.fullmatch(text):
        raise ValueError(f"{text} is a number that no setting takes")
    return text


def _fitting(number: int) -> int:
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"the number {show(str(number), 40)} does not fit into 64 bits")
    return number
