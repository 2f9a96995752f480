"""Reads what steps write: progress, metrics and facts from the report, last words from the log.

A report is a file of JSON lines that a driver inside the image appends to (`plugins/README.md`). Both files
belong to code that we do not trust to be well-formed: a line that is none is passed over, reads are bounded.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from qwend.adapters.volume import disk_full, volume_of
from qwend.core.redact import Redactor
from qwend.effects import LastWords, Progress
from qwend.model.launch import Launch

_TAIL = 64 * 1024
_MAX_REPORT = 64 * 1024 * 1024
_IN_USE = re.compile(r"EADDRINUSE|[Aa]ddress already in use|couldn't bind|port \d+ is (already )?in use")
_CARD_FULL = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|cudaMalloc failed: out of memory|CUDA_ERROR_OUT_OF_MEMORY"
    r"|torch\.(cuda\.)?OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|No available memory for the cache blocks"
)
"""How PyTorch, llama.cpp (ggml), the CUDA driver, cuBLAS and vLLM say it."""
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|ENOSPC|EDQUOT")
_NOTHING = 1 << 20
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
_TELLING = re.compile(
    r"error|fail|cannot|unable|no such|not found|out of memory|invalid|unknown|exception", re.IGNORECASE
)


@dataclass
class _Tail:
    """How far the files of one step were read, and when its figures last moved."""

    offsets: dict[str, int] = field(default_factory=dict)
    last: Progress | None = None
    since: float = 0.0
    first: float = 0.0


class FileReports:
    """`Reports` on plain files."""

    def __init__(self, redactor: Redactor | None = None) -> None:
        self._redactor = redactor or Redactor()
        self._tails: dict[str, _Tail] = {}
        self._patterns: dict[str, re.Pattern[str]] = {}

    def progress(self, subject: str, launch: Launch, log: str, report: str) -> Progress | None:
        tail = self._tails.get(subject)
        if tail is None:
            # What an earlier start left in the log is not news.
            tail = self._tails[subject] = _Tail({log: _size(log)})
        found = self._from_report(_news(report, tail)) or self._from_log(launch, _news(log, tail))
        if found is None or _same(found, tail.last):
            return None
        return self._rated(subject, found, tail)

    def forget(self, subject: str) -> None:
        self._tails.pop(subject, None)

    def metrics(self, report: str) -> tuple[dict[str, float], dict[str, Any]]:
        metrics: dict[str, float] = {}
        facts: dict[str, Any] = {}
        for row in _rows(_read(report, _MAX_REPORT)):
            metric, fact = row.get("metric"), row.get("fact")
            if isinstance(metric, dict) and isinstance(metric.get("value"), int | float):
                of = f"{metric['of']}." if metric.get("of") else ""
                metrics[f"{of}{metric.get('name', '')}"] = float(metric["value"])
            if isinstance(fact, dict):
                facts |= fact
        return metrics, facts

    def selected(self, report: str) -> str | None:
        chosen = [
            row["select"] for row in _rows(_read(report, _MAX_REPORT)) if isinstance(row.get("select"), str)
        ]
        return chosen[-1] if chosen else None

    def last_words(self, launch: Launch, log: str, report: str, since: int = 0) -> LastWords:
        text = _plain(_read(log, _TAIL, since))
        taken = _IN_USE.search(text) is not None
        said, code = self._said(launch, text, report), ""
        if _CARD_FULL.search(text):
            said, code = f"the memory of the card is too small: {said}", "out-of-memory"
        elif _DISK_FULL.search(text) or _is_full(report):
            full = "; ".join(disk_full(os.path.dirname(report), "the step's output").lines())
            said, code = f"{said}: {full}" if said else full, "disk-full"
        return LastWords(self._redactor.text(said), taken, code)

    def _said(self, launch: Launch, text: str, report: str) -> str:
        for row in reversed(_rows(_read(report, _MAX_REPORT))):
            error = row.get("error")
            if isinstance(error, dict) and error.get("message"):
                return _with_hint(str(error["message"]), str(error.get("hint") or ""))
        for hint in launch.hints:
            if match := re.search(hint.regex, text, re.MULTILINE):
                groups = {name: value or "" for name, value in match.groupdict().items()}
                return _with_hint(hint.message.format(**groups), hint.hint.format(**groups))
        lines = [line.strip() for line in text.splitlines() if line.strip()][-20:]
        telling = [line for line in lines if _TELLING.search(line)]
        return (telling or lines or [""])[-1][:400]

    def _from_report(self, text: str) -> Progress | None:
        for row in reversed(_rows(text)):
            data = row.get("progress")
            if isinstance(data, dict):
                try:
                    return msgspec.convert({"subject": "", **data}, Progress, strict=False)
                except msgspec.ValidationError:
                    continue
        return None

    def _from_log(self, launch: Launch, text: str) -> Progress | None:
        if not launch.progress or not text:
            return None
        lines = [line for line in _plain(text).splitlines() if line]
        for line in reversed(lines[-200:]):
            for pattern in launch.progress:
                match = self._pattern(pattern.regex).search(line)
                if match:
                    return _matched(match.groupdict(), pattern.phase, pattern.unit)
        return None

    def _pattern(self, regex: str) -> re.Pattern[str]:
        if regex not in self._patterns:
            self._patterns[regex] = re.compile(regex)
        return self._patterns[regex]

    def _rated(self, subject: str, found: Progress, tail: _Tail) -> Progress:
        """Adds the rate where the engine does not tell it: since the phase began."""
        now = time.monotonic()
        if tail.last is None or tail.last.phase != found.phase or (found.done or 0) < (tail.last.done or 0):
            tail.since, tail.first = now, found.done or 0.0
        rate = found.rate
        if rate is None and found.done is not None and now - tail.since >= 1.0:
            rate = (found.done - tail.first) / (now - tail.since)
        tail.last = found
        return msgspec.structs.replace(found, subject=subject, rate=rate)


def _matched(groups: dict[str, str | None], phase: str, unit: str) -> Progress | None:
    def number(name: str) -> float | None:
        try:
            return float(groups.get(name) or "")
        except ValueError:
            return None

    percent = number("percent")
    done, total = (percent, 100.0) if percent is not None else (number("done"), number("total"))
    if done is None:
        return None
    return Progress(
        "", groups.get("phase") or phase, done, total, "%" if percent is not None else unit, number("rate")
    )


def _same(new: Progress, old: Progress | None) -> bool:
    return old is not None and (new.phase, new.done, new.total) == (old.phase, old.done, old.total)


def _with_hint(message: str, hint: str) -> str:
    return f"{message} ({hint})" if hint else message


def _is_full(path: str) -> bool:
    """Whether nothing more goes on the disk: what a step says of it may not have gone into its log either."""
    try:
        return volume_of(os.path.dirname(path)).free < _NOTHING
    except OSError:
        return False


def _plain(data: str) -> str:
    return _ESCAPES.sub("", data.replace("\r", "\n"))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _read(path: str, most: int, since: int = 0) -> str:
    """The last `most` bytes of a file as text, those before `since` left out; nothing if it is not there.

    A file that is shorter than `since` was cut in the meantime: then all of it counts.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - most, since if since <= size else 0))
            return file.read(most).decode("utf-8", "replace")
    except OSError:
        return ""


def _news(path: str, tail: _Tail) -> str:
    """What was appended since the last call, at most the last 64 KiB of it; a cut file is read anew."""
    size, start = _size(path), tail.offsets.get(path, 0)
    if size == start:
        return ""
    if size < start:
        start = 0
    start = max(start, size - _TAIL)
    try:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(size - start)
    except OSError:
        return ""
    tail.offsets[path] = start + len(data)
    return data.decode("utf-8", "replace")


def _rows(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                row = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeError):
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows
