"""Results of a batch, and the journal by which a killed batch goes on. Standard library only.

Each row has a *key*: sha256 over the model's identity, the settings and what is asked. Results are kept by it, so what
was answered before, by a killed attempt or by an earlier run over fewer rows, is not asked again, and a row that
stands there twice is answered twice. The journal is appended and synced; `results.jsonl` appears whole, in the rows'
order.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from batch_rows import BatchError, Row, report

RESULTS, JOURNAL = "results.jsonl", "journal.jsonl"
SYNC_S = 1.0


@dataclass(frozen=True)
class Outcome:
    """How a row was answered: a text, or the sentence that says why there is none."""

    text: str | None
    finish: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    error: str | None = None
    calls: tuple[Mapping[str, Any], ...] = ()


def key_of(row: Row, identity: str) -> str:
    """What the answer depends on: the model and the settings (`identity`), and what is asked."""
    asked = {
        "messages": row.messages,
        "prompt": row.prompt,
        "body": dict(row.body),
        "as": row.custom_id is not None,
    }
    text = json.dumps([identity, asked], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def result_of(row: Row, outcome: Outcome, key: str, model: str) -> dict[str, Any]:
    """A line of the results, without its place: OpenAI's shape for a row of OpenAI's format, a plain one otherwise."""
    usage = {"prompt_tokens": outcome.prompt_tokens, "completion_tokens": outcome.tokens}
    usage["total_tokens"] = sum(usage.values())
    if row.custom_id is None:
        made = {"input": row.said, "output": outcome.text, "finish_reason": outcome.finish, "usage": usage}
        return made | {"error": outcome.error, "key": key}
    if outcome.error is not None:
        wrong = {"message": outcome.error, "type": "invalid_request_error", "param": None, "code": None}
        response: dict[str, Any] = {"status_code": 400, "request_id": key[:32], "body": {"error": wrong}}
    else:
        response = {
            "status_code": 200,
            "request_id": key[:32],
            "body": _body(row, outcome, key, model) | {"usage": usage},
        }
    return {"id": f"batch_req_{key[:24]}", "response": response, "error": None, "key": key}


def _body(row: Row, outcome: Outcome, key: str, model: str) -> dict[str, Any]:
    if row.messages is None:
        choice: dict[str, Any] = {
            "index": 0,
            "text": outcome.text,
            "finish_reason": outcome.finish,
            "logprobs": None,
        }
        head, kind = "cmpl", "text_completion"
    else:
        message: dict[str, Any] = {"role": "assistant", "content": outcome.text}
        if outcome.calls:
            message["tool_calls"] = list(outcome.calls)
        choice = {"index": 0, "message": message, "finish_reason": outcome.finish, "logprobs": None}
        head, kind = "chatcmpl", "chat.completion"
    made = {"id": f"{head}-{key[:24]}", "object": kind, "created": int(time.time()), "model": model}
    return made | {"choices": [choice]}


class Results:
    """The answers of a batch: what is there, what is missing, and the file in the end.

    `out` is the output folder, kept between attempts; `before` a folder that may hold the results of an earlier run.
    """

    def __init__(self, rows: list[Row], identity: str, out: Path, before: Path | None, model: str) -> None:
        self._rows, self._out, self._model = rows, out, model
        self._keys = [key_of(row, identity) for row in rows]
        self._done: dict[int, dict[str, Any]] = {}
        self._begun, self._synced, self._tokens, self._answered = time.monotonic(), 0.0, 0, 0
        out.mkdir(parents=True, exist_ok=True)
        earlier = before / RESULTS if before is not None else None
        self._place(_lines(out / JOURNAL, mend=True))
        kept = len(self._done)
        self._place(_lines(earlier) if earlier is not None and earlier.is_file() else ())
        self.kept, self.known = kept, len(self._done) - kept
        self._journal: IO[str] | None = None

    def _place(self, lines: Iterable[dict[str, Any]]) -> None:
        """Gives each answer to a row that asks for it; errors are asked again."""
        wanting: dict[str, list[int]] = defaultdict(list)
        for index in range(len(self._rows) - 1, -1, -1):
            if index not in self._done:
                wanting[self._keys[index]].append(index)
        for line in lines:
            waiting = wanting.get(str(line.get("key")))
            if waiting and not _failed(line):
                self._done[waiting.pop()] = line

    def missing(self) -> list[Row]:
        """The rows without an answer, in order."""
        return [row for row in self._rows if row.index not in self._done]

    def add(self, row: Row, outcome: Outcome) -> None:
        """One more answer, durable within a second."""
        line = result_of(row, outcome, self._keys[row.index], self._model)
        self._done[row.index] = line
        self._answered += 1
        self._tokens += outcome.tokens
        if self._journal is None:
            self._journal = (self._out / JOURNAL).open("a", encoding="utf-8")
        self._journal.write(json.dumps(line, ensure_ascii=False) + "\n")
        if time.monotonic() - self._synced >= SYNC_S:
            self.sync()

    def sync(self) -> None:
        """Make what was added durable, and tell how far it is."""
        if self._journal is not None:
            self._journal.flush()
            os.fsync(self._journal.fileno())
        self._synced = time.monotonic()
        self.progress()

    def close(self) -> None:
        """Let go of the journal, whose lines are durable then."""
        self.sync()
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def progress(self) -> None:
        if not self._answered:  # the model is loaded by now: its loading is no part of the rate
            self._begun = time.monotonic()
        took = max(time.monotonic() - self._begun, 1e-6)
        phase = f"generate at {_two_digits(self._tokens / took)} tokens/s" if self._tokens else "generate"
        news = {"phase": phase, "done": len(self._done), "total": len(self._rows), "unit": "prompt"}
        report(progress=news | ({"rate": round(self._answered / took, 4)} if self._answered else {}))

    def finish(self) -> None:
        """Write the results in the rows' order, tell the figures, and drop the journal. All rows have to be there."""
        self.close()
        part = self._out / f"{RESULTS}.part"
        failed = 0
        with part.open("w", encoding="utf-8") as file:
            for row in self._rows:
                line = self._done[row.index]
                failed += _failed(line)
                place = (
                    {"index": row.index, "input": row.said}
                    if row.custom_id is None
                    else {"custom_id": row.custom_id}
                )
                file.write(json.dumps({**place, **line, **place}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._out / RESULTS)
        (self._out / JOURNAL).unlink(missing_ok=True)
        took = max(time.monotonic() - self._begun, 1e-6)
        figures = {
            "prompts": len(self._rows),
            "failed": failed,
            "answered": self._answered,
            "kept": self.kept,
        }
        figures |= {"known": self.known, "completion_tokens": self._tokens}
        for name, value in figures.items():
            report(metric={"name": name, "value": value})
        if self._tokens:
            report(
                metric={
                    "name": "tokens_per_second",
                    "value": round(self._tokens / took, 3),
                    "unit": "tokens/s",
                }
            )
        report(fact={"rows": len(self._rows)})
        if failed == len(self._rows):
            raise BatchError(f"none of {failed} prompts could be answered: {_reason(self._done[0])}")
        if failed:
            print(
                f"{failed} of {len(self._rows)} prompts could not be answered; the first: {self._first()}",
                file=sys.stderr,
            )

    def _first(self) -> str:
        return next(_reason(self._done[row.index]) for row in self._rows if _failed(self._done[row.index]))


def _failed(line: Mapping[str, Any]) -> bool:
    response = line.get("response")
    wrong = isinstance(response, dict) and response.get("status_code") != 200
    return line.get("error") is not None or wrong


def _reason(line: Mapping[str, Any]) -> str:
    response = line.get("response")
    if isinstance(response, dict):
        return str(((response.get("body") or {}).get("error") or {}).get("message"))
    return str(line.get("error"))


def _lines(path: Path, *, mend: bool = False) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; `mend` cuts off what a kill left of the last one."""
    if not path.is_file():
        return
    good = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            good += len(line)
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value
    if mend and good < path.stat().st_size:
        os.truncate(path, good)


def _two_digits(value: float) -> str:
    """Rounded to two digits, so that a line that follows it does not change at every moment."""
    return f"{float(f'{value:.2g}'):g}"
