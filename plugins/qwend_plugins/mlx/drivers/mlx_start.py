"""What MLX's drivers share: the report, known failures, the model's own settings. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_KNOWN = (
    (
        r"Model type (\S+?) not supported",
        "this mlx-lm does not know the architecture {0}",
        "a newer one may: raise mlx-lm in the image's image.toml, then qwend images lock mlx --write",
    ),
    (
        r"\[load_safetensors\] (.*)",
        "a safetensors file of the model is broken or cut short: {0}",
        "qwend store verify finds damage; fetch it again",
    ),
    (
        r"(No safetensors found)",
        "the model holds no safetensors file",
        "is it a whole checkpoint? fetch it again",
    ),
)
"""What mlx-lm says of a model that it cannot load, what that means, and what helps."""


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


def refusal(said: BaseException | str) -> DriverError:
    """What mlx-lm said of a model that it cannot load, for the user: an exception, or a line of its log."""
    text = " ".join(str(said).split())[:400]
    for pattern, message, hint in _KNOWN:
        if match := re.search(pattern, text):
            return DriverError(message.format(*match.groups()), hint)
    if isinstance(said, LookupError | TypeError | AttributeError):  # says little without its name
        text = f"{type(said).__name__}: {text}"
    return DriverError(f"mlx-lm refuses the model: {text}", "is it a whole checkpoint? fetch it again")


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """What mlx-lm raises while it loads a model, as a DriverError. What memory and disk lack stays what it is."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise refusal(error) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise refusal(error) from None
    except RuntimeError as error:
        if "[load_safetensors]" not in str(error):
            raise
        raise refusal(error) from None


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
