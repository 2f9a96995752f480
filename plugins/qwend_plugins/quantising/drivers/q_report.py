"""What every quantising driver says of itself: progress, facts, and one clear line for a known failure.

Runs inside an image and imports nothing of qwend. Lines of JSON go to the file in ``QWEND_REPORT``.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn


class Trouble(Exception):
    """A known failure: one sentence for the user, and how to mend it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


KNOWN = (
    (
        r"(?:out of memory|OutOfMemoryError|can't allocate memory|MemoryError|std::bad_alloc)",
        "there was not enough memory",
        "fewer or shorter calibration samples need less; so does a smaller model, or a card with more memory",
    ),
    (r"No space left on device", "the disk is full", "qwend store prune frees what nothing refers to"),
    (
        r"(?:contains custom code|requires you to execute the .*file|trust_remote_code)",
        "the checkpoint needs code of its own, which was not allowed to run",
        "read that code, then say trust_remote_code: true at the step",
    ),
    (
        r"(?:KeyError: '(?P<a>\w+)'|(?P<b>\w+) isn't supported yet|model type `(?P<c>\w+)` but Transformers)",
        "this backend does not know the architecture {a}{b}{c}",
        "backend: llm-compressor knows the newest ones; llama-cpp/quantize knows others",
    ),
    (
        r"(?:Error while deserializing header|MetadataIncompleteBuffer|SafetensorError)",
        "a safetensors file of the checkpoint is broken or cut short",
        "qwend store verify finds damage; fetch it again",
    ),
)


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def progress(phase: str, done: float, total: float, unit: str = "") -> None:
    report(progress={"phase": phase, "done": done, "total": total, "unit": unit})


def say(text: str) -> None:
    print(text, flush=True)


def explain(error: BaseException) -> tuple[str, str]:
    """One line for the user, and a hint."""
    if isinstance(error, Trouble):
        return str(error), error.hint
    text = f"{type(error).__name__}: {error}"
    for pattern, message, hint in KNOWN:
        if found := re.search(pattern, text):
            return message.format(**{name: value or "" for name, value in found.groupdict().items()}), hint
    return re.sub(r"\s+", " ", text)[:400], ""


def fail(message: str, hint: str = "") -> NoReturn:
    report(error={"message": message, "hint": hint})
    print(message + (f" ({hint})" if hint else ""), file=sys.stderr, flush=True)
    sys.exit(1)


def guarded(main: Callable[[], None]) -> None:
    """Run `main`; what it raises becomes one line, after its traceback in the log where it is not a known trouble."""
    try:
        main()
    except Trouble as trouble:
        fail(str(trouble), trouble.hint)
    except Exception as error:
        traceback.print_exc()
        fail(*explain(error))
