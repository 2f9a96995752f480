"""Fixed prompts before and after a change: what is the same, and the first token that is not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ev_common import EvalError, first_difference

PROMPTS: list[Any] = [
    "Write one sentence about a lighthouse.",
    "用一句话介绍一下长城。",
    "What is 17 + 25? Answer with the number only.",
    "List three prime numbers, separated by commas.",
    [
        {"role": "system", "content": "You answer in French."},
        {"role": "user", "content": "Good morning! How are you?"},
    ],
    [
        {"role": "user", "content": "My name is Lin."},
        {"role": "assistant", "content": "Nice to meet you, Lin."},
        {"role": "user", "content": "What is my name?"},
    ],
    "Complete in Python: def add(a, b):",
    "把下面的词译成英文：春天、河流、书。",
]
"""Ours: English and Chinese, a system message, several turns, code."""

MOST_PROMPTS = 1000


def read_prompts(place: Path | None) -> list[Any]:
    """Prompts of a data set: `prompt`, or `messages`; ours where none is given. Raises EvalError."""
    if place is None:
        return PROMPTS
    files = [place] if place.is_file() else sorted(place.rglob("*.json*"))
    if not files:
        raise EvalError("there are no prompts to read", 'a file with {"prompt": …} a line')
    found = []
    for number, line in enumerate(files[0].read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            found.append(_prompt(line, f"{files[0].name}:{number}"))
    if not found or len(found) > MOST_PROMPTS:
        raise EvalError(f"{files[0].name} has {len(found)} prompts; 1 to {MOST_PROMPTS} are meant")
    return found


def _prompt(line: str, place: str) -> Any:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise EvalError(f"{place}: no JSON: {error}") from None
    if isinstance(row, str):
        return row
    if isinstance(row, dict) and isinstance(row.get("prompt"), (str, list)):
        return row["prompt"]
    if isinstance(row, dict) and isinstance(row.get("messages"), list):
        told = [message for message in row["messages"] if isinstance(message, dict)]
        while told and told[-1].get("role") == "assistant":
            told = told[:-1]
        if told:
            return told
    raise EvalError(f"{place}: a row has no prompt", 'write {"prompt": …} or {"messages": […]}')


def compared(
    subjects: Sequence[Any], before: Path | None, out: Path
) -> Iterator[tuple[Any, dict[str, float]]]:
    """Each model that is held to the reference, with its figures; `golden.json` keeps the reference's answers."""
    if before is not None:
        reference, rest = _earlier(before), list(subjects)
    else:
        reference, rest = subjects[0].answers, list(subjects[1:])
    kept = {"prompts": reference if before is None else subjects[0].answers}
    (out / "golden.json").write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    for subject in rest:
        yield subject, differences(subject.name, reference, subject.answers)


def _earlier(before: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads((before / "golden.json").read_text(encoding="utf-8"))["prompts"])
    except (OSError, ValueError, KeyError):
        raise EvalError(
            "the reference's report holds no answers", "name a step that uses evaluate/golden"
        ) from None


def differences(
    name: str, reference: list[dict[str, Any]], answers: list[dict[str, Any]]
) -> dict[str, float]:
    """Shares of prompts that are seen and answered alike, and the mean count of tokens before the first that differs.

    What differs is printed, and noted in `answers`. Raises EvalError if the prompts are not the same.
    """
    if [row["prompt"] for row in reference] != [row["prompt"] for row in answers]:
        raise EvalError(f"{name} was asked other prompts than the reference", "give both the same prompts:")
    same = seen = tokens = 0
    for index, (old, new) in enumerate(zip(reference, answers, strict=True)):
        at_prompt = first_difference(old["tokens"], new["tokens"])
        at = first_difference(old["answer"], new["answer"])
        new["prompt_differs_at"], new["differs_at"] = at_prompt, at
        seen += at_prompt is None
        same += at is None
        tokens += len(new["answer"]) if at is None else at
        if at_prompt is not None:
            print(f"{name}: prompt {index}: the template gives another token {at_prompt}", flush=True)
        if at is not None:
            print(
                f"{name}: prompt {index}: token {at} differs: {old['text']!r} → {new['text']!r}", flush=True
            )
    count = len(answers)
    return {"golden_same": same / count, "golden_prompts_same": seen / count, "golden_tokens": tokens / count}
