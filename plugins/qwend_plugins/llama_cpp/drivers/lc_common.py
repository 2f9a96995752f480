"""What the drivers of llama.cpp's tools share: the report, known failures, a tool that runs, a text to feed it.

Runs inside an image beside its neighbours and imports nothing of qwend; standard library only.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

KEPT = 1 << 20
MAGIC = {
    b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file", b"\xff\xff\xff\xff": "an Arrow stream",
    b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive", b"GGUF": "a GGUF model",
}  # fmt: skip
KNOWN = (
    (r"you need at least (\d+) tokens",
     "the text is too short: it holds fewer than {0} tokens, which are two windows",
     "take a longer text, or a smaller context"),
    (r"there are only (\d+) chunks|only (\d+) tokens", "the text is too short", "take a longer text, or fewer chunks"),
    (r"unknown model architecture: '([^']*)'", "this llama.cpp does not know the architecture {0}", "a newer one may"),
    (r"unknown pre-tokenizer type: '([^']*)'", "this llama.cpp does not know the tokenizer {0}",
     "it was changed or is newer: keep the base model's tokenizer files, or upgrade the image"),
    (r"[Ii]nconsistent vocabulary", "the models do not have the same vocabulary",
     "compare forms of one model"),
    (r"(?:failed to allocate|out of memory|bad_alloc)", "there was not enough memory",
     "a smaller model or a shorter context needs less"),
    (r"No space left on device|failed to write|iostream error", "the disk is full",
     "qwend store prune frees what nothing refers to"),
    (r"(?:gguf_init_from_\w+: |invalid magic characters|data is not within the file bounds|corrupted or incomplete|"
     r"failed to read (?:tensor|header))", "the GGUF file is broken or cut short",
     "qwend store verify finds damage; fetch or build it again"),
    (r"error: (?:invalid argument|unknown argument): (\S+)", "the tool does not know {0}", "see extra_args"),
    (r"(?:nan|NaN) detected|contains? (?:nan|NaN)", "the model computes NaN: its weights are damaged", "make it again"),
    (r"failed to load model|error loading model", "the model cannot be loaded", "the step's log says why"),
)  # fmt: skip


class ToolError(Exception):
    """A known failure: one line for the user, and a hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def metric(name: str, value: float, of: str | None = None) -> None:
    report(metric={"name": name, "value": value, **({"of": of} if of else {})})


def told(main: Callable[[list[str]], None], argv: list[str], name: str) -> NoReturn:
    """Run a driver; a known failure is reported and ends it with 1."""
    try:
        main(argv)
    except ToolError as error:
        if error.hint:  # else the step's own patterns may know the tool's last words
            report(error={"message": str(error), "hint": error.hint})
        print(f"{name}: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr, flush=True)
        sys.exit(1)
    sys.exit(0)


def why(said: str, code: int) -> ToolError:
    """What a tool's last words mean."""
    for pattern, message, hint in KNOWN:
        if found := re.search(pattern, said):
            return ToolError(message.format(*(group or "?" for group in found.groups())), hint)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    return ToolError(f"the tool {ended}: {lines[-1][:300] if lines else 'it said nothing'}")


def run(
    command: list[str],
    heard: Callable[[str], None] | None = None,
    stdout: Callable[[str], None] | None = None,
) -> str:
    """Run a tool, copy what it says to the log, and give it back (its last MiB).

    `heard` is told of all that was said so far whenever there is more: tools write progress without ending the line.
    With `stdout` the standard output is handed there whole instead. Raises ToolError where the tool fails.
    """
    print("+ " + " ".join(command), file=sys.stderr, flush=True)
    with tempfile.TemporaryFile() as spool:
        if stdout is None:
            process = start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        else:
            process = start(command, stdout=spool, stderr=subprocess.PIPE)
        text = follow(process, heard)
        if stdout is not None:
            spool.seek(0)
            stdout(spool.read().decode("utf-8", "replace"))
    return text


def start(command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    """The tool as a child that ends with this process, also where this is a container's first one."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **streams)

    def end(number: int, frame: object) -> None:
        process.terminate()
        process.wait()
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return process


def follow(process: subprocess.Popen[bytes], heard: Callable[[str], None] | None) -> str:
    """Copy what the tool says to the log until it ends."""
    pipe = process.stdout or process.stderr
    assert pipe is not None
    said = b""
    while piece := os.read(pipe.fileno(), 65536):
        os.write(2, piece)
        said = (said + piece)[-KEPT:]
        if heard is not None:
            heard(said.decode("utf-8", "replace"))
    code = process.wait()
    text = said.decode("utf-8", "replace")
    if code != 0:
        raise why(text, code)
    return text


def text_file(place: Path, scratch: Path) -> Path:
    """A plain UTF-8 file with the text of a data set: `data.txt`, its only text file, or the `text` of its rows.

    Raises ToolError for what is no text: a tool that is fed with a binary file measures the file format.
    """
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
    plain = [file for file in files if file.suffix.lower() in (".txt", ".raw", ".md")]
    rows = [file for file in files if file.suffix.lower() == ".jsonl"]
    whole = [file for file in plain if file.name == "data.txt"] or plain
    if len(whole) == 1 or (len(files) == 1 and not rows):
        chosen = (whole or files)[0]
        if not _decoded(chosen).strip():
            raise ToolError(f"{chosen.name} is empty")
        return chosen
    if len(rows) != 1:
        said = ", ".join(file.name for file in files[:5]) or "nothing"
        raise ToolError(f"the data set holds no one text: {said}", "say column: at the data set")
    text = "\n\n".join(_row(line, rows[0].name) for line in _decoded(rows[0]).split("\n") if line.strip())
    made = scratch / "text.txt"
    made.write_text(text, encoding="utf-8")
    return made


def _decoded(file: Path) -> str:
    data = file.read_bytes()
    kind = next((said for sign, said in MAGIC.items() if data.startswith(sign)), None)
    if kind is None and b"\0" in data[: 1 << 20]:
        kind = "a binary file"
    if kind is not None:
        raise ToolError(f"{file.name} is {kind}, not text", "a data set with column: text reads such files")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(f"{file.name} is not UTF-8: byte {error.start}", "convert it to UTF-8") from None


def _row(line: str, name: str) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError):
        raise ToolError(f"{name}: a row has no text", "say column: at the data set") from None
