"""What vLLM's drivers share: the report, known failures, the rank of adapters. Standard library only."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks for which every version makes room."""
SOCKET_PATH, UUID = 103, 36
"""Bytes of a socket's path on any system, and of the name that vLLM gives to one."""


class DriverError(Exception):
    """A known failure: one line for the user, a hint, an exit code."""

    def __init__(self, message: str, hint: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.hint, self.code = hint, code


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def run(program: str, work: Callable[[], None]) -> None:
    """Do the work; a known failure is told in the report and as the last line of the log."""
    try:
        work()
    except DriverError as error:
        report(error={"message": str(error), "hint": error.hint})
        print(f"{program}: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr, flush=True)
        sys.exit(error.code)


def parser_of(program: str) -> Any:
    """vLLM's own argument parser, which has moved (0.10 of the cuda12 build has it in another module)."""
    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ModuleNotFoundError:
        from vllm.utils import FlexibleArgumentParser
    return FlexibleArgumentParser(prog=program)


def short_sockets() -> None:
    """Give vLLM's processes a folder for their sockets: the path of one may have 107 bytes, and ours is a long one."""
    if len(tempfile.gettempdir()) + len("/") + UUID <= SOCKET_PATH:
        return
    folder = tempfile.mkdtemp(prefix="vllm-", dir="/tmp")
    os.environ["VLLM_RPC_BASE_PATH"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def read_rank(folder: Path) -> int:
    """The rank of a LoRA adapter, from its configuration."""
    try:
        said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        ranks = [said["r"], *(said.get("rank_pattern") or {}).values()]
        return max(int(rank) for rank in ranks)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DriverError(
            f"{folder.name}: no LoRA adapter: adapter_config.json tells no rank ({error})"
        ) from None


def room_for(ranks: Sequence[int]) -> int:
    """The least rank that vLLM offers and that all of these fit in."""
    largest = max(ranks)
    fitting = [rank for rank in RANKS if rank >= largest]
    if not fitting:
        raise DriverError(
            f"an adapter has rank {largest}, and vLLM takes {RANKS[-1]} at most", "merge it into the model"
        )
    return fitting[0]


def with_ranks(words: list[str]) -> list[str]:
    """vLLM's words with `--max-lora-rank`, read from the adapters that they name, unless somebody says it."""
    if "--lora-modules" not in words or "--max-lora-rank" in words:
        return words
    after = words[words.index("--lora-modules") + 1 :]
    named = itertools.takewhile(lambda word: not word.startswith("--"), after)
    ranks = [read_rank(Path(word.partition("=")[2])) for word in named]
    return [*words, "--max-lora-rank", str(room_for(ranks))]
