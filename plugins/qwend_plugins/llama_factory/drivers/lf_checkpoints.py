"""Checkpoints of a training run: which of them are whole, and what of them is worth keeping afterwards.

Standard library only. transformers writes a checkpoint file by file into its final folder, the trainer's state last;
a kill or a full disk leaves one that looks like the newest and cannot be resumed from.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_ONLY_FOR_RESUMING = (
    "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth", "training_args.bin", "latest",
    "zero_to_fp32.py", "global_step*", "README.md",
)  # fmt: skip

_TOKENIZER = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.jinja",
)
"""The base's own, which an adapter is loaded with."""


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of each checkpoint, by step."""
    found = []
    for path in folder.glob("checkpoint-*") if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    return sorted(found)


def is_whole(path: Path, needed: Iterable[str] = ()) -> bool:
    """Whether a checkpoint can be resumed from: its state is JSON, its archives and tensors end where they say, and
    what its stage needs besides is there."""
    if not all((path / name).is_file() for name in needed):
        return False
    try:
        state = json.loads((path / STATE).read_bytes())
    except (OSError, ValueError):
        return False
    if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
        return False
    tensors = list(path.glob("*.safetensors"))
    archives = [file for pattern in ("*.pt", "*.pth") for file in path.glob(pattern)]
    return bool(tensors) and all(map(_tensors_whole, tensors)) and all(map(zipfile.is_zipfile, archives))


def _tensors_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length < 1 << 27 else {}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(path.stat().st_size == 8 + length + max(ends))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False


def latest(folder: Path, needed: Iterable[str] = ()) -> Path | None:
    """The newest whole checkpoint; those that are not whole are removed, so that nothing resumes from them."""
    best = None
    for _, path in checkpoints(folder):
        if is_whole(path, needed):
            best = path
        else:
            print(f"{path.name} was cut off while it was written: removed", flush=True)
            shutil.rmtree(path)
    return best


def start_over(folder: Path) -> Path | None:
    """Removes the checkpoints of an attempt that nothing can go on from."""
    for _, path in checkpoints(folder):
        print(f"{path.name}: this stage cannot go on from a checkpoint and begins anew", flush=True)
        shutil.rmtree(path)
    return None


def settle(folder: Path, keep: bool, adapter: bool = True) -> list[int]:
    """After the end: removes checkpoints, or what of them nobody needs any more. Gives the steps that stay."""
    kept = []
    needless = (*_ONLY_FOR_RESUMING, *(_TOKENIZER if adapter else ()))
    for step, path in checkpoints(folder):
        if not keep:
            shutil.rmtree(path)
            continue
        for pattern in needless:
            for item in path.glob(pattern):
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        kept.append(step)
    return kept
