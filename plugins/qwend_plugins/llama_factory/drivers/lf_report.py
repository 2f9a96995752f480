"""What the drivers of LLaMA-Factory say to whoever started them. Standard library only.

Lines of JSON go to the file that ``QWEND_REPORT`` names; an error is also the last line of the log.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, NoReturn

KNOWN = (
    (
        r"CUDA out of memory|torch\.OutOfMemoryError",
        "the card ran out of memory",
        "lower per_device_train_batch_size or cutoff_len, set quantization_bit: 4 or deepspeed: z3",
    ),
    (
        r"DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|MemoryError",
        "there was not enough memory",
        "lower per_device_train_batch_size or cutoff_len, or take a smaller base",
    ),
    (
        r"No space left on device|Disk quota exceeded|unexpected pos \d+ vs|PytorchStreamWriter failed",
        "the disk is full",
        "qwend store prune frees what nothing refers to; the next attempt resumes from the last whole checkpoint",
    ),
    (
        r"Some keys are not used by the HfArgumentParser: (?P<names>.*)",
        "LLaMA-Factory knows no argument {names}",
        "qwend plugins ls llama-factory/train lists the common ones",
    ),
    (
        r"Target modules (?P<names>.*?) not found in the base model",
        "the model has no modules {names}",
        "lora_target: all takes every linear layer; Qwen's are q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    ),
    (
        r"Cannot find (?:valid|sufficient) samples",
        "no row of the data is left after tokenising",
        "raise cutoff_len, or give more rows",
    ),
    (
        r"Does not recognize|does not recognize this architecture|Unrecognized (?:model|configuration class)",
        "this LLaMA-Factory does not know the architecture of the base",
        "a newer one may: python images/lock.py llama-factory --upgrade llamafactory",
    ),
    (
        r"NCCL (?:error|failure|timeout)|ncclInternalError|ncclUnhandledCudaError|Watchdog caught collective",
        "the cards lost touch with each other",
        "NCCL_DEBUG=INFO under env: says more; a slow first rank needs a larger ddp_timeout",
    ),
    (r"requires you to execute|trust_remote_code", "the base needs code of its own, which was not allowed to run",
     "read that code, then say trust_remote_code: true at the step"),
)  # fmt: skip


class Refused(Exception):
    """What a user did that cannot work: one sentence and how to mend it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one. A full disk loses the line only."""
    path = os.environ.get("QWEND_REPORT")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        print(f"the report cannot be written: {error.strerror}", file=sys.stderr)


def metric(name: str, value: float, of: str | None = None) -> None:
    report(metric={"name": name, "value": value, **({"of": of} if of else {})})


def progress(
    phase: str, done: float | None = None, total: float | None = None, unit: str = "", said: str = ""
) -> None:
    row = {"phase": phase, "done": done, "total": total, "unit": unit, "message": said}
    report(progress={key: value for key, value in row.items() if value not in (None, "")})


def explain(error: BaseException) -> tuple[str, str]:
    """One line for the user, and a hint."""
    if isinstance(error, Refused):
        return error.message, error.hint
    text = f"{type(error).__name__}: {error}"
    for pattern, message, hint in KNOWN:
        if found := re.search(pattern, text):
            return message.format(**found.groupdict()), hint
    return re.sub(r"\s+", " ", str(error) or type(error).__name__)[:400], ""


def fail(message: str, hint: str = "", code: int = 1) -> NoReturn:
    report(error={"message": message, "hint": hint})
    print(f"llama-factory: {message}" + (f" ({hint})" if hint else ""), file=sys.stderr, flush=True)
    sys.exit(code)
