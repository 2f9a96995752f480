"""`${VAR}` in scalar values, as in docker compose. Pure.

The forms: `${V}`, `${V:-default}` and `${V-default}` (`:` counts an empty value as missing), `${V:?message}`,
`${V?message}`, `${V:+instead}`, `${V+instead}`, `$$` for one dollar sign. Defaults may hold further forms.
A dollar sign before anything but a name, a brace or another dollar sign is itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from qwend.core.suggest import did_you_mean
from qwend.core.wording import quote, show

MAX_RESULT = 1024 * 1024
_MAX_NESTING = 16

_FORM = r"\$(?:(?P<escaped>\$)|(?P<open>\{)|(?P<bare>[A-Za-z_][A-Za-z0-9_]*))"
_OUTER = re.compile(_FORM)
_NESTED = re.compile(_FORM + r"|(?P<close>\})")
_HEAD = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<operator>:?[-?+]|(?=\}))")


class InterpolationError(ValueError):
    """What is wrong with a `${…}`; `hint` says how to mend it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def interpolate(text: str, env: Mapping[str, str]) -> str:
    """`text` with every `${…}` filled from `env`. Raises InterpolationError."""
    if "$" not in text:
        return text
    done, end = _fill(text, 0, env, 0)
    assert end == len(text), "only a nested text ends before its end"
    return done


def _fill(text: str, start: int, env: Mapping[str, str], depth: int) -> tuple[str, int]:
    """The filled text from `start` to the end, or to a nested text's closing brace; and where that is."""
    if depth > _MAX_NESTING:
        raise InterpolationError("${…} is nested too deeply")
    parts: list[str] = []
    at, size = start, 0
    search = (_NESTED if depth else _OUTER).search
    while True:
        found = search(text, at)
        if found is None and depth:
            raise InterpolationError("a ${ is never closed", "write $$ for a dollar sign")
        if found is None or (depth and found["close"]):
            end = len(text) if found is None else found.start()
            parts.append(text[at:end])
            return "".join(parts), end
        parts.append(text[at : found.start()])
        if found["escaped"]:
            filled, at = "$", found.end()
        elif found["bare"]:
            name = show(found["bare"], 40)
            raise InterpolationError(
                f"${name} is ambiguous", f"write ${{{name}}} for the variable, $${name} for the text"
            )
        else:
            filled, at = _variable(text, found.end(), env, depth)
        parts.append(filled)
        size += len(filled)
        if size > MAX_RESULT:
            raise InterpolationError(f"the text grows beyond {MAX_RESULT // 1024} KiB by its variables")


def _variable(text: str, start: int, env: Mapping[str, str], depth: int) -> tuple[str, int]:
    """The value of what stands after `${`, and the position after its closing brace."""
    head = _HEAD.match(text, start)
    if head is None:
        raise InterpolationError(
            f"{quote(text[start - 2 : start + 20], 40)} is no variable",
            "write ${NAME} or ${NAME:-default}; $$ is one dollar sign",
        )
    name, operator = head["name"], head["operator"]
    word, end = ("", head.end()) if not operator else _fill(text, head.end(), env, depth + 1)
    value = env.get(name)
    there = bool(value) if operator.startswith(":") else value is not None
    match operator[-1:]:
        case "-":
            return (value if there and value is not None else word), end + 1
        case "+":
            return (word if there else ""), end + 1
        case _ if there and value is not None:
            return value, end + 1
        case "?" if word:
            raise InterpolationError(f"the variable {show(name)} is not set: {show(word, 200)}")
        case _:
            state = "is empty" if value == "" else f"is not set{did_you_mean(name, env)}"
            raise InterpolationError(
                f"the variable {show(name)} {state}",
                f"export {show(name)}=…, or give a default: ${{{show(name)}:-…}}",
            )
