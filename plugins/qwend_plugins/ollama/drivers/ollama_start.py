"""What Ollama's drivers share: the report and known failures. Standard library only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


class DriverError(Exception):
    """A known failure: one line for the user, a hint, an exit code."""

    def __init__(self, message: str, hint: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.hint, self.code = hint, code


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """A line of the log."""
    print(text, file=sys.stderr, flush=True)


def run(program: str, work: Callable[[], None]) -> None:
    """Do the work; a known failure is told in the report and as the last line of the log."""
    try:
        work()
    except DriverError as error:
        report(error={"message": str(error), "hint": error.hint})
        say(f"{program}: {error}" + (f" ({error.hint})" if error.hint else ""))
        sys.exit(error.code)
