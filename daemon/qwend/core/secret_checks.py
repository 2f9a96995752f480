"""Secrets that were written where they would be kept in clear: what a recipe says lies in state, plans and locks.

Pure. No problem repeats the value that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from qwend.core.explain import Problem
from qwend.core.lens import Path
from qwend.core.redact import Redactor, redact, smells
from qwend.core.wording import show

_PLAIN = re.compile(r"[0-9.+-]*|true|false|yes|no|on|off|none", re.IGNORECASE)
"""Values that are no secret whatever the variable is called: numbers and switches."""
_WHY = "and what a recipe says is kept in clear"


def step_secrets(path: Path, step: Mapping[str, Any]) -> Iterator[Problem]:
    """Values of `env` and words of `extra_args` that look like secrets; `path` is the step's."""
    env = step.get("env")
    for name, value in env.items() if isinstance(env, dict) else ():
        if (
            isinstance(value, str)
            and not _PLAIN.fullmatch(value)
            and (smells(name) or redact(value) != value)
        ):
            called = re.sub(r"[^a-z0-9]+", "_", show(name).lower()).strip("_")
            hint = f"use secrets: [{called}] and --secret {called}=@FILE: a step reads it as a file"
            yield Problem((*path, "env", name), f"looks like a secret, {_WHY}", hint)
    words = step.get("extra_args")
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        for index, (word, shown) in enumerate(zip(words, Redactor().argv(words), strict=True)):
            if word != shown:
                hint = "use secrets:, and the tool's option that reads it from a file"
                yield Problem((*path, "extra_args", index), f"looks like a secret, {_WHY}", hint)


def reference_secret(path: Path, text: str) -> Problem | None:
    """A password or token in the address of a source."""
    if redact(text) == text:
        return None
    hint = "leave it out; ~/.netrc, or the hub's own login, gives it"
    return Problem(path, f"holds a password or token, {_WHY}", hint)
