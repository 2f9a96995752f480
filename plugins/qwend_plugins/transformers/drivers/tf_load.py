"""Load a checkpoint, with or without an adapter, for the drivers beside this file.

Runs inside the image and imports nothing of qwend. What goes wrong while loading is a `DriverError`: one line, a hint,
an exit code. torch and transformers are imported in `load`, so that a wrong command line is told at once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hf_packed import exact


class DriverError(Exception):
    """A known failure: one line for the user, a hint, an exit code."""

    def __init__(self, message: str, hint: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.hint, self.code = hint, code


@dataclass
class Loaded:
    """A model that can answer. `context` is how many tokens prompt and answer may have together."""

    model: Any
    tokenizer: Any
    context: int
    device: str


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def leave(error: DriverError, program: str) -> NoReturn:
    """Tell an error in the report and as the last line of the log, and end."""
    report(error={"message": str(error), "hint": error.hint})
    print(f"{program}: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr, flush=True)
    sys.exit(error.code)


def run(program: str, work: Callable[[], None]) -> None:
    """Do the work; a known failure ends it with its line, running out of memory is one of them."""
    try:
        work()
    except DriverError as error:
        leave(error, program)
    except MemoryError as error:
        leave(out_of_memory(error), program)
    except RuntimeError as error:
        said = str(error)  # a card's words, or those of torch's allocator for the machine
        if not (
            type(error).__name__ == "OutOfMemoryError"
            or "out of memory" in said
            or "can't allocate memory" in said
        ):
            raise
        leave(out_of_memory(error), program)


def out_of_memory(error: BaseException) -> DriverError:
    """What to say when memory ends: of the card or of the machine."""
    where = "card" if "CUDA" in str(error) else "machine"
    return DriverError(
        f"the memory of the {where} does not suffice",
        "a smaller or quantised model, a shorter context or a smaller batch needs less",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what to load, and how."""
    add = parser.add_argument
    add("--model", type=Path, required=True, help="the folder of a checkpoint")
    add("--adapter", type=Path, help="the folder of a LoRA adapter, applied without merging")
    add("--device", choices=("cpu", "cuda", "mps"), required=True)
    add("--device-map", choices=("auto", "balanced", "balanced_low_0", "sequential"), default="auto")
    add("--dtype", choices=("auto", "bfloat16", "float16", "float32"), default="auto")
    add("--attn-implementation", help="eager, sdpa, flash_attention_2, flash_attention_3, flex_attention")
    add("--context", type=int, help="tokens of prompt and answer together; default: the model's own")
    add("--chat-template", type=Path, help="a file with a Jinja template, instead of the model's own")
    add("--trust-remote-code", action="store_true")
    add("--threads", type=int, help="CPU threads")


def load(args: argparse.Namespace) -> Loaded:
    """The model that the options name, on its device, ready to generate."""
    config = _config(args.model)
    size = sum(file.stat().st_size for file in args.model.glob("*.safetensors"))
    report(progress={"phase": "load", "done": 0, "total": size, "unit": "B"})
    begun = time.monotonic()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if args.threads:
        torch.set_num_threads(args.threads)
    _check_device(args.device, torch)
    remote = args.trust_remote_code
    said: dict[str, Any] = {"dtype": args.dtype, "trust_remote_code": remote, "local_files_only": True}
    said["device_map"] = args.device_map if args.device == "cuda" else {"": args.device}
    if args.attn_implementation:
        said["attn_implementation"] = args.attn_implementation
    try:
        tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=remote, local_files_only=True)
        known = AutoConfig.from_pretrained(args.model, trust_remote_code=remote, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(args.model, config=exact(known, args.device), **said)
    except (ImportError, ValueError, OSError, KeyError) as error:
        raise _refused(error, config) from None
    if args.adapter:
        model = _adapted(model, args.adapter)
    model.eval()
    if args.chat_template:
        tokenizer.chat_template = args.chat_template.read_text(encoding="utf-8")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    report(progress={"phase": "load", "done": size, "total": size, "unit": "B"})
    report(metric={"name": "load_time", "value": round(time.monotonic() - begun, 3), "unit": "s"})
    return Loaded(model, tokenizer, _context(args.context, config), args.device)


def check_template(loaded: Loaded) -> None:
    """Refuse a model without a chat template, or with one that cannot be used, before anybody asks."""
    if not loaded.tokenizer.chat_template:
        raise DriverError(
            "the model has no chat template: it is a base model",
            "give it one: chat_template, or take an -Instruct",
        )
    try:
        loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # whatever a template raises
        raise DriverError(f"the chat template cannot be used: {error}", "mend the Jinja text") from None


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DriverError(f"{folder.name}: no checkpoint: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise DriverError(f"{folder.name}/config.json cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise DriverError(f"{folder.name}/config.json holds no object")
    return config


def _context(said: int | None, config: dict[str, Any]) -> int:
    trained = config.get("max_position_embeddings") or (config.get("text_config") or {}).get(
        "max_position_embeddings"
    )
    known = trained if isinstance(trained, int) else 32_768
    return min(said, known) if said else known


def _check_device(device: str, torch: Any) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise DriverError("torch sees no card", "serve on device: cpu, or mend the driver: qwend doctor")
    if device == "mps" and not torch.backends.mps.is_available():
        raise DriverError("torch sees no Metal device", "serve on device: cpu")


def _adapted(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, folder)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        text = str(error)
        if "size mismatch" in text or "not found in the base model" in text:
            raise DriverError(
                "the adapter does not fit this model: it was trained on another one",
                "its adapter_config.json names its base model",
            ) from None
        raise DriverError(f"the adapter cannot be loaded: {_first_line(text)}") from None


def _refused(error: Exception, config: dict[str, Any]) -> DriverError:
    text = str(error)
    if "trust_remote_code" in text:
        return DriverError("this model brings code of its own", "read it, then say trust_remote_code: true")
    if "does not recognize this architecture" in text or isinstance(error, KeyError):
        kind = config.get("model_type", "unknown")
        return DriverError(f"this transformers does not know the architecture {kind}")
    if "attention" in text.lower() or "flash" in text.lower():
        return DriverError(_first_line(text), "leave attn_implementation out, or take sdpa")
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method and isinstance(error, ImportError):
        return DriverError(f"a {method} checkpoint cannot be read here: {_first_line(text)}")
    return DriverError(f"the checkpoint cannot be loaded: {_first_line(text)}")


def _first_line(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip().partition("\n")[0])[:300] or "no reason was given"
