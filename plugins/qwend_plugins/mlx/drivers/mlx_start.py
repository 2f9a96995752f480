"""What MLX's drivers share: the report, known failures, the model's own settings. Standard library only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


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


def leave(program: str, error: DriverError) -> None:
    """Tell a known failure in the report and as the last line of the log."""
    report(error={"message": str(error), "hint": error.hint})
    print(f"{program}: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr, flush=True)


def run(program: str, work: Callable[[], None]) -> None:
    """Do the work; a known failure ends it with its line."""
    try:
        work()
    except DriverError as error:
        leave(program, error)
        sys.exit(error.code)


def generation_config(folder: Path) -> dict[str, Any]:
    """How the model wants to be sampled, by OpenAI's names: temperature 0 where it says greedy; empty if it says
    nothing. A file that is no JSON is an error: else the model would silently be sampled in another way."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_bytes())
    except ValueError:
        raise DriverError(f"{path.name} of the model is no JSON", "fetch the model again") from None
    if not isinstance(said, dict):
        return {}
    if said.get("do_sample") is False:
        return {"temperature": 0.0}
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {name: said[name] for name in names if isinstance(said.get(name), int | float)}


def model_context(folder: Path, said: int | None) -> int:
    """Tokens that prompt and answer may have together: what was said, within what the model was trained for."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        raise DriverError("the model's config.json cannot be read", "fetch the model again") from None
    inner = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    trained = config.get("max_position_embeddings") or inner.get("max_position_embeddings")
    known = trained if isinstance(trained, int) else 32_768
    return min(said, known) if said else known


def whole_safetensors(path: Path) -> bool:
    """Whether a safetensors file holds all that its header promises: a killed run leaves one that does not."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            return bool(ends) and path.stat().st_size == 8 + length + max(ends)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_template(path: Path) -> str:
    """A chat template from a file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DriverError(f"the chat template cannot be read: {error}") from None
