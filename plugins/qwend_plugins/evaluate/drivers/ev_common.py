"""What the drivers of evaluate share: the report, known failures, the text that is measured, windows of tokens.

Runs inside an image beside its neighbours and imports nothing of qwend; standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

MAGIC = {
    b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file", b"\xff\xff\xff\xff": "an Arrow stream",
    b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive", b"GGUF": "a GGUF model",
}  # fmt: skip


class EvalError(Exception):
    """A known failure: one line for the user, and a hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass
class Settings:
    """How to measure. `chunks` None: all windows of the text. `threads` None: the program's own choice."""

    context: int = 512
    chunks: int | None = None
    threads: int | None = None
    device: str = "cpu"
    dtype: str = "auto"
    lengths: tuple[int, ...] = (1,)
    batch_sizes: tuple[int, ...] = (1,)
    generate: int = 128
    repeats: int = 1
    max_tokens: int = 32
    template: str = "chat"
    remote_code: bool = False
    extra: tuple[str, ...] = ()


@dataclass
class Measured:
    """What came of one model. `tokens` are those of the measured windows."""

    figures: dict[str, float] = field(default_factory=dict)
    tokens: str = ""
    windows: int = 0
    speed: list[dict[str, float]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def progress(phase: str, done: float, total: float, unit: str) -> None:
    report(progress={"phase": phase, "done": done, "total": total, "unit": unit})


def metric(of: str, name: str, value: float, about: str | None = None) -> None:
    """A figure of one model; of the one that a step is about, the step's own, too. Raises EvalError for NaN."""
    if not math.isfinite(value):
        raise EvalError(
            f"{of}: {name} is {value}: the weights are broken, or numbers overflow",
            "measure the model that it was made from; a wider dtype may help",
        )
    report(metric={"name": name, "value": value, "of": of})
    if of == about:
        report(metric={"name": name, "value": value})


def leave(program: str, message: str, hint: str = "") -> NoReturn:
    """Tell an error in the report and as the last line of the log, and end."""
    report(error={"message": message, "hint": hint})
    print(f"{program}: {message}" + (f" ({hint})" if hint else ""), file=sys.stderr, flush=True)
    sys.exit(1)


def run(program: str, work: Callable[[], None]) -> None:
    """Do the work; a known failure ends it with its line, running out of memory is one of them."""
    try:
        work()
    except EvalError as error:
        leave(program, str(error), error.hint)
    except OSError as error:
        leave(program, str(error), "qwend store prune frees disk" if error.errno == 28 else "")
    except (MemoryError, RuntimeError) as error:
        said = str(error).lower()  # of a card, and of torch's allocator for the machine
        if (
            isinstance(error, RuntimeError)
            and "out of memory" not in said
            and "can't allocate memory" not in said
        ):
            raise
        leave(program, "there was not enough memory", "a shorter context, or a smaller model, needs less")


def size_of(place: Path) -> int:
    """Bytes of a model's weights on disk."""
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    weights = [file for file in files if file.suffix in (".gguf", ".safetensors")] or files
    return sum(file.stat().st_size for file in weights)


def read_text(place: Path) -> str:
    """The text of a data set: `data.txt`, else its only text file, else its rows' `text` with blank lines between.

    One newline at the end is left out, as llama-perplexity does with a file. Raises EvalError for what is no text.
    """
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
    named = {file.name: file for file in files}
    texts = [file for file in files if file.suffix.lower() in (".txt", ".raw", ".md")]
    rows = [file for file in files if file.suffix.lower() == ".jsonl"]
    if "data.txt" in named:
        text = _decoded(named["data.txt"])
    elif len(texts) == 1 or (len(files) == 1 and not rows):
        text = _decoded((texts or files)[0])
    elif rows:
        text = "\n\n".join(_row(line, rows[0].name) for line in _decoded(rows[0]).split("\n") if line.strip())
    else:
        said = ", ".join(file.name for file in files[:5]) or "nothing"
        raise EvalError(f"there is no text to measure on: {said}", "say column: at the data set")
    text = text.removesuffix("\n")
    if not text.strip():
        raise EvalError("the text to measure on is empty")
    return text


def _decoded(file: Path) -> str:
    data = file.read_bytes()
    kind = next((said for sign, said in MAGIC.items() if data.startswith(sign)), None)
    if kind is None and b"\0" in data[: 1 << 20]:
        kind = "a binary file"
    if kind is not None:
        raise EvalError(f"{file.name} is {kind}, not text", "a data set with column: text reads such files")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EvalError(f"{file.name} is not UTF-8: byte {error.start}", "convert it to UTF-8") from None


def _row(line: str, name: str) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError):
        raise EvalError(f"{name}: a row has no text", "say column: at the data set") from None


def window_count(tokens: int, context: int, chunks: int | None) -> int:
    """How many windows of `context` tokens are measured. A text has to hold two, as llama.cpp demands."""
    if tokens < 2 * context:
        raise EvalError(
            f"the text has {tokens:,} tokens; a context of {context:,} needs {2 * context:,}",
            "a longer text, or a smaller context",
        )
    return tokens // context if chunks is None else min(chunks, tokens // context)


def tokens_digest(tokens: Sequence[int]) -> str:
    """sha256 over tokens as 32-bit little-endian integers: two measurements with one digest can be compared."""
    return hashlib.sha256(struct.pack(f"<{len(tokens)}i", *tokens)).hexdigest()


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """The index of the first token that differs; None if the two are the same."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right)) if len(left) != len(right) else None


LOGITS = b"_logits_"


@dataclass(frozen=True)
class LogitsHead:
    """The head of a file of logits: length of a window and size of the vocabulary in tokens, the windows' tokens."""

    context: int
    vocabulary: int
    tokens: tuple[int, ...]

    @property
    def windows(self) -> int:
        return len(self.tokens) // self.context


def read_logits_head(file: IO[bytes], name: str) -> LogitsHead:
    """Reads the head of a file of logits, which llama-perplexity writes too. Raises EvalError for what is none."""
    head = file.read(len(LOGITS) + 12)
    if len(head) < len(LOGITS) + 12 or not head.startswith(LOGITS):
        raise EvalError(f"{name} holds no logits", "evaluate/perplexity makes it with save_logits: true")
    context, vocabulary, windows = struct.unpack("<3i", head[len(LOGITS) :])
    if not (0 < context <= 1 << 24 and 0 < vocabulary <= 1 << 24 and 0 < windows <= 1 << 20):
        raise EvalError(f"{name} holds no logits: its head makes no sense", "make it again")
    data = file.read(4 * context * windows)
    if len(data) < 4 * context * windows:
        raise EvalError(f"{name} is cut short", "make it again")
    return LogitsHead(context, vocabulary, struct.unpack(f"<{context * windows}i", data))


def check_base(head: LogitsHead, context: int) -> None:
    """Refuse to compare with logits of other windows, or with too few for a statistic."""
    if head.context != context:
        raise EvalError(
            f"the reference was measured with a context of {head.context}, not {context}",
            f"context: {head.context}",
        )
    scored = (context - 1 - context // 2) * head.windows
    if scored < 100:
        raise EvalError(
            f"{head.windows} windows of {context} tokens score {scored} positions; 100 are the least",
            "more chunks, or a longer context",
        )
