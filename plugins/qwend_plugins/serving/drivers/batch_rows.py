"""Rows of a batch, as people write them. Standard library only.

A row is a prompt, a conversation, or a request of OpenAI's batch format:

    "Why is the sky blue?"                              {"prompt": "Why is the sky blue?"}
    {"messages": [{"role": "user", "content": "…"}]}    {"custom_id": "a", "url": "/v1/chat/completions", "body": {…}}
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".json", ".txt", ".csv")


class BatchError(Exception):
    """A known failure: one line for the user, and a hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint, self.code = hint, 1


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Row:
    """One question. `said` is what the file holds, `body` the settings that it brings, `custom_id` is OpenAI's."""

    index: int
    said: Any
    messages: list[dict[str, Any]] | None
    prompt: str | None
    body: Mapping[str, Any] = field(default_factory=dict)
    custom_id: str | None = None


def read_rows(path: Path, *, chat: bool, system: str | None = None, column: str | None = None) -> list[Row]:
    """All rows of a file or folder. `chat`: a prompt is what a user says; else it is continued as it is.

    Raises BatchError with file and line of the first row that is none.
    """
    rows: list[Row] = []
    for file in _files(path):
        for line, said in _items(file):
            where = f"{file.name}:{line}"
            rows.append(_row(len(rows), said, where, chat=chat, system=system, column=column))
    if not rows:
        raise BatchError(f"{path.name}: there are no prompts")
    return rows


def _files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
    jsonl = [file for file in found if file.suffix == ".jsonl"]
    found = jsonl or found  # data sets lie there as text, too
    if not found:
        raise BatchError(f"{path.name}: holds none of {', '.join(SUFFIXES)}")
    return found


def _items(file: Path) -> Iterator[tuple[int, Any]]:
    """Line number and value of each row; blank lines are none."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix == ".json":
                values = json.load(lines)
                if not isinstance(values, list):
                    raise BatchError(f"{file.name}: should be a JSON list, or JSON lines in a .jsonl")
                yield from enumerate(values, 1)
            elif file.suffix == ".csv":
                reader = csv.DictReader(lines)
                for value in reader:
                    yield reader.line_num, {key: text for key, text in value.items() if key}
            else:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield (
                            number,
                            _json(line, f"{file.name}:{number}")
                            if file.suffix == ".jsonl"
                            else line.rstrip(),
                        )
    except UnicodeDecodeError as error:
        raise BatchError(f"{file.name}: is not UTF-8 text (at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise BatchError(f"{file.name}:{error.lineno}: is no JSON: {error.msg}") from None
    except OSError as error:
        raise BatchError(f"{file.name} cannot be read: {error.strerror}") from None


def _json(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BatchError(f"{where}: is no JSON: {getattr(error, 'msg', 'nested too deep')}") from None


def _row(index: int, said: Any, where: str, *, chat: bool, system: str | None, column: str | None) -> Row:
    if isinstance(said, dict) and "body" in said:
        return _openai(index, said, where)
    if isinstance(said, dict) and "messages" in said:
        if not chat:
            raise BatchError(f"{where}: has messages, and chat: false continues texts")
        return Row(index, said, _messages(said["messages"], f"{where}: messages"), None)
    text = said if isinstance(said, str) else _text(said, where, column)
    if not text.strip():
        raise BatchError(f"{where}: the prompt is empty")
    if not chat:
        return Row(index, said, None, text)
    before = [{"role": "system", "content": system}] if system else []
    return Row(index, said, [*before, {"role": "user", "content": text}], None)


def _text(said: Any, where: str, column: str | None) -> str:
    if not isinstance(said, dict):
        raise BatchError(f"{where}: should be a text or an object with a prompt")
    names = (column,) if column else ("prompt", "question", "instruction", "text")
    for name in names:
        if isinstance(said.get(name), str):
            return str(said[name])
    have = ", ".join(map(str, list(said)[:8])) or "nothing"
    raise BatchError(f"{where}: has no {' or '.join(map(str, names))}; it has {have}", "say which: column")


def _openai(index: int, said: dict[str, Any], where: str) -> Row:
    """A request of OpenAI's batch format."""
    body, url = said["body"], said.get("url", "/v1/chat/completions")
    if not isinstance(body, dict):
        raise BatchError(f"{where}: body should be an object")
    if url not in ("/v1/chat/completions", "/v1/completions"):
        raise BatchError(f"{where}: {url} is not answered here", "/v1/chat/completions or /v1/completions")
    custom = said.get("custom_id")
    name = str(index) if custom is None else str(custom)
    if url == "/v1/chat/completions":
        return Row(index, said, _messages(body.get("messages"), f"{where}: body.messages"), None, body, name)
    if not isinstance(body.get("prompt"), str):
        raise BatchError(f"{where}: body.prompt should be a text")
    return Row(index, said, None, body["prompt"], body, name)


def _messages(value: Any, where: str) -> list[dict[str, Any]]:
    good = isinstance(value, list) and value and all(isinstance(one, dict) and "role" in one for one in value)
    if not good:
        raise BatchError(f"{where} should be a list of messages with role and content")
    return list(value)
