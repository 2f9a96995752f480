"""A checkpoint run by torch and transformers: safetensors, compressed-tensors, GPTQ, AWQ. A `Net` and a `Talker`."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from ev_common import EvalError, Settings
from ev_hf import Checkpoint
from hf_packed import exact
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


class TorchNet(Checkpoint):
    """A loaded checkpoint. `dtype` auto: 32-bit floats on a CPU, the checkpoint's own on a card."""

    def __init__(self, name: str, place: Path, settings: Settings) -> None:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.name, self.device = name, settings.device
        if self.device == "cuda" and not torch.cuda.is_available():
            raise EvalError("torch sees no card", "device: cpu, or mend the driver: qwend doctor")
        config = _config(place, name)
        packed = "quantization_config" in config
        dtype: Any = settings.dtype
        if dtype == "auto":
            dtype = torch.float32 if self.device == "cpu" and not packed else "auto"
        said: dict[str, Any] = {"local_files_only": True, "trust_remote_code": settings.remote_code}
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(place, **said)
            device_map = "auto" if self.device == "cuda" else {"": self.device}
            known = exact(AutoConfig.from_pretrained(place, **said), self.device)
            self.model: Any = AutoModelForCausalLM.from_pretrained(
                place, config=known, dtype=dtype, device_map=device_map, **said
            )
        except Exception as error:  # whatever the libraries raise; all of it stands in the log
            traceback.print_exc()
            raise _refused(error, name) from None
        self.model.eval()
        self.vocabulary = int(self.model.get_output_embeddings().weight.shape[0])

    def logits(self, tokens: Sequence[int], last: int) -> Any:
        with torch.inference_mode():
            ids = torch.tensor([list(tokens)], device=self.model.device)
            out = self.model(input_ids=ids, use_cache=False, logits_to_keep=last).logits[0]
            return out.float().cpu().numpy()

    def ends(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        stop = {ends} if isinstance(ends, int) else set(ends or ())
        return stop | {self.tokenizer.eos_token_id} - {None}

    def written(self, prompts: list[list[int]], most: int) -> Iterator[list[int]]:
        ids = torch.tensor(prompts, device=self.model.device)
        past = None
        for _ in range(most):
            with torch.inference_mode():
                out = self.model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
                past, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
            yield ids[:, 0].tolist()  # waits for the card

    def peak(self) -> int:
        if self.device == "cuda":
            return sum(
                int(torch.cuda.max_memory_allocated(card)) for card in range(torch.cuda.device_count())
            )
        return host_peak()


def host_peak() -> int:
    """The most memory that this process took, in bytes."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _config(place: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EvalError(f"{name} is no checkpoint: it has no config.json") from None
    except ValueError as error:
        raise EvalError(f"{name}: config.json is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise EvalError(f"{name}: config.json holds no object")
    return config


def _refused(error: Exception, name: str) -> EvalError:
    text = str(error)
    if "trust_remote_code" in text:
        return EvalError(f"{name} brings code of its own", "read it, then say trust_remote_code: true")
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return EvalError(
            f"{name}: there was not enough memory", "a smaller dtype, or a smaller model, needs less"
        )
    if "deserializing header" in text or "MetadataIncompleteBuffer" in text:
        return EvalError(
            f"{name}: a safetensors file is broken or cut short", "qwend store verify finds damage"
        )
    said = re.sub(r"\s+", " ", text)[:300]
    return EvalError(f"{name} cannot be loaded: {said or type(error).__name__}")
