"""A checkpoint run by MLX. A `Net` and a `Talker`."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from ev_common import EvalError, Settings
from ev_talk import clock, random_tokens
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load


class MlxNet:
    """A loaded checkpoint, in the formats of its own weights."""

    def __init__(self, name: str, place: Path, settings: Settings) -> None:
        self.name, self.device = name, settings.device
        try:
            loaded: Any = load(str(place))
        except Exception as error:  # whatever the libraries raise; all of it stands in the log
            traceback.print_exc()
            raise EvalError(f"{name} cannot be loaded: {str(error)[:300]}") from None
        self.model, self.tokenizer = loaded[0], loaded[1]._tokenizer
        self.vocabulary = int(self.model(mx.array([[0]])).shape[-1])

    def tokens(self, text: str) -> list[int]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.encode_special_tokens = True
        try:
            return list(self.tokenizer(text, add_special_tokens=True)["input_ids"])
        finally:
            if backend is not None:
                backend.encode_special_tokens = False

    def begin(self) -> int | None:
        begin = self.tokenizer.bos_token_id
        return begin if begin is not None and self.tokens("a")[:1] == [begin] else None

    def logits(self, tokens: Sequence[int], last: int) -> Any:
        out = self.model(mx.array([list(tokens)]))[0, -last:].astype(mx.float32)
        mx.eval(out)
        return np.array(out)

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        if not self.tokenizer.chat_template:
            raise EvalError(f"{self.name} has no chat template", "template: none asks without one")
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def greedy(self, tokens: Sequence[int], most: int) -> list[int]:
        found: list[int] = []
        for token in self._written([list(tokens)], most):
            if token[0] == self.tokenizer.eos_token_id:
                break
            found.append(token[0])
        return found

    def words(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens)))

    def timed(self, batch: int, length: int, generate: int) -> tuple[float, float]:
        prompts = [random_tokens(length + index, self.vocabulary)[:length] for index in range(batch)]
        begun = first = clock()
        for index, _ in enumerate(self._written(prompts, generate + 1)):
            if index == 0:
                first = clock()
        return first - begun, max(clock() - first, 1e-9)

    def _written(self, prompts: list[list[int]], most: int) -> Any:
        cache, ids = make_prompt_cache(self.model), mx.array(prompts)
        for _ in range(most):
            ids = mx.argmax(self.model(ids, cache=cache)[:, -1:], axis=-1)
            yield [int(token) for token in np.array(ids[:, 0])]

    def peak(self) -> int:
        import resource
        import sys

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        own = most if sys.platform == "darwin" else most * 1024
        return max(own, int(mx.get_peak_memory()))
