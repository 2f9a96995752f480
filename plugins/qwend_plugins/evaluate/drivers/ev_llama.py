"""Measure a GGUF with llama.cpp's own tools: llama-perplexity, and llama-tokenize for the windows.

What the tools print is read; their exit code alone says too little: llama-perplexity ends with 0 after a text that is
too short, and under load its last lines may be lost.
"""

from __future__ import annotations

import ast
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ev_common import (
    EvalError,
    Measured,
    Settings,
    check_base,
    progress,
    read_logits_head,
    tokens_digest,
    window_count,
)

T = TypeVar("T")
NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf))"
FINAL = re.compile(rf"Final estimate: PPL = {NUMBER} \+/- {NUMBER}")
RUNNING = re.compile(rf"\[\d+\]{NUMBER},")
DONE = re.compile(r"\[(\d+)\][\d.]+,|^\s*(\d+)\s+[\d.]+ ±", re.MULTILINE)
DIVERGED = {
    "perplexity": rf"Mean PPL\(Q\) *: *{NUMBER}",
    "perplexity_error": rf"Mean PPL\(Q\) *: *\S+ ± *{NUMBER}",
    "perplexity_ratio": rf"Mean PPL\(Q\)/PPL\(base\) *: *{NUMBER}",
    "mean_kld": rf"Mean +KLD: *{NUMBER}",
    "mean_kld_error": rf"Mean +KLD: *\S+ ± *{NUMBER}",
    "median_kld": rf"Median +KLD: *{NUMBER}",
    "p99_kld": rf"99\.0% +KLD: *{NUMBER}",
    "max_kld": rf"Maximum +KLD: *{NUMBER}",
    "same_top": rf"Same top p: *{NUMBER}",
    "rms_dp": rf"RMS Δp *: *{NUMBER}",
}
PERCENT = ("same_top", "rms_dp")
KNOWN = (
    (r"unknown model architecture: '([^']*)'", "this llama.cpp does not know the architecture {0}", "a newer one may"),
    (r"unknown pre-tokenizer type: '([^']*)'", "this llama.cpp does not know the tokenizer {0}",
     "it was changed or is newer: keep the base model's tokenizer, or upgrade the image"),
    (r"(?:gguf_init_from_\w+: |invalid magic characters|tensor '[^']*' data is not within the file bounds|"
     r"corrupted or incomplete|failed to read (?:tensor|header))", "the GGUF file is broken or cut short",
     "qwend store verify finds damage; fetch or build it again"),
    (r"(?:failed to allocate|out of memory|bad_alloc)", "there was not enough memory",
     "a shorter context, or a smaller model, needs less"),
    (r"(?:error loading model|failed to load model)[^\n]*", "the model cannot be loaded", "its log says why"),
)  # fmt: skip


def gguf_file(place: Path) -> Path:
    """The one GGUF of a folder, or the first of its parts."""
    files = [place] if place.is_file() else sorted(place.rglob("*.gguf"))
    parts = [file for file in files if "-of-" in file.name]
    if len(files) == 1 or (parts and len(parts) == len(files)):
        return files[0]
    raise EvalError(f"{place.name} holds {len(files)} GGUF files, where one is meant")


class Gguf:
    """One GGUF and the tools that measure it. A newline at the end of a text's file is no part of it."""

    def __init__(self, tools: Path, name: str, place: Path, settings: Settings) -> None:
        self.tools, self.name, self.settings = tools, name, settings
        self.file = gguf_file(place)

    def tokens(self, text: Path) -> list[int]:
        """The text as llama-perplexity reads it: words that look like special tokens are words."""
        argv = [
            self.tools / "llama-tokenize",
            "-m",
            self.file,
            "--stdin",
            "--ids",
            "--no-parse-special",
            "--offline",
        ]
        said = text.read_bytes().removesuffix(b"\n").decode()
        ended = subprocess.run(
            [*map(str, argv)],
            input=said,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        found = re.search(r"^\[[\d, \n]*\]\s*$", ended.stdout, re.MULTILINE)
        if ended.returncode or found is None:
            raise known(f"{ended.stdout}\n{ended.stderr}", self.name) or EvalError(
                f"{self.name}: the text could not be read as tokens",
                f"llama-tokenize ended with {ended.returncode}",
            )
        return [int(token) for token in ast.literal_eval(found[0].strip())]

    def perplexity(self, text: Path, save: Path | None = None) -> Measured:
        """Perplexity over the windows of the text; the logits go to `save`."""
        settings = self.settings
        tokens = self.tokens(text)
        windows = window_count(len(tokens), settings.context, settings.chunks)
        words = ["-f", str(text), "--chunks", str(windows)]
        if save is not None:
            words += ["--save-all-logits", str(save)]
        figures = self._twice(words, windows, _estimated)
        return Measured(figures, tokens_digest(tokens[: windows * settings.context]), windows)

    def divergence(self, base: Path) -> Measured:
        """Perplexity and divergence from the logits in `base`, over its windows."""
        with base.open("rb") as file:
            head = read_logits_head(file, base.name)
        check_base(head, self.settings.context)
        words = ["--kl-divergence", "--kl-divergence-base", str(base)]
        found = self._twice(words, head.windows, _diverged)
        return Measured(found, tokens_digest(head.tokens), head.windows)

    def _twice(self, words: list[str], windows: int, read: Callable[[str], T | None]) -> T:
        """What `read` finds in the tool's output. A result that is missing is asked for once more."""
        for attempt in (1, 2):
            code, said = self._run(words, windows)
            if "inconsistent vocabulary" in said:
                raise EvalError(
                    f"{self.name} has another vocabulary than the reference", "compare kin of one base"
                )
            found = read(said)
            if found is not None:
                return found
            error = known(said, self.name)
            if error is not None:
                raise error
            how = f"ended with {code}" if code >= 0 else f"was killed by signal {-code}"
            print(f"measure: llama-perplexity {how} without a result ({attempt} of 2)", flush=True)
        raise EvalError(
            f"{self.name}: llama-perplexity gave no result, twice; it {how}",
            "its last words are in the log; memory may have run out",
        )

    def _run(self, words: list[str], windows: int) -> tuple[int, str]:
        settings, context = self.settings, self.settings.context
        batch = str(min(context, 2048))
        argv = [str(self.tools / "llama-perplexity"), "-m", str(self.file), "-c", str(context)]
        argv += ["-b", batch, "-fit", "off", "--no-warmup", "--offline"]
        if settings.threads:
            argv += ["-t", str(settings.threads), "-tb", str(settings.threads)]
        argv += [*words, *settings.extra]
        said, seen = bytearray(), 0
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            while data := os.read(process.stdout.fileno(), 1 << 16):
                sys.stdout.write(data.decode("utf-8", "replace"))
                sys.stdout.flush()
                said += data
                done = DONE.findall(said[-200:].decode("utf-8", "replace"))
                if done and (now := int(done[-1][0] or done[-1][1])) != seen:
                    seen = now
                    progress(self.name, seen, windows, "windows")
        return process.returncode, said.decode("utf-8", "replace")


def _estimated(said: str) -> dict[str, float] | None:
    """The last estimate. Where all tokens are equally likely there is no error, and the tool prints no last line."""
    if found := FINAL.search(said):
        return {"perplexity": float(found[1]), "perplexity_error": float(found[2])}
    running = RUNNING.findall(said)
    if running and (
        "Unexpected negative standard deviation" in said or not math.isfinite(float(running[-1]))
    ):
        return {"perplexity": float(running[-1]), "perplexity_error": 0.0}
    return None


def _diverged(said: str) -> dict[str, float] | None:
    figures = {}
    for name, pattern in DIVERGED.items():
        found = re.search(pattern, said)
        if found is None:
            return None
        figures[name] = float(found[1]) / (100 if name in PERCENT else 1)
    return figures


def known(said: str, name: str) -> EvalError | None:
    """What the tool's words mean; None if they mean nothing that is known."""
    for pattern, message, hint in KNOWN:
        if found := re.search(pattern, said):
            return EvalError(f"{name}: {message.format(*found.groups())}", hint)
    return None
