"""A checkpoint run by MLX. A `Net` and a `Talker`."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from ev_common import EvalError, Settings
from ev_hf import Checkpoint
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load


class MlxNet(Checkpoint):
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

    def logits(self, tokens: Sequence[int], last: int) -> Any:
        out = self.model(mx.array([list(tokens)]))[0, -last:].astype(mx.float32)
        mx.eval(out)
        return np.array(out)

    def ends(self) -> set[int]:
        return {self.tokenizer.eos_token_id}

    def written(self, prompts: list[list[int]], most: int) -> Iterator[list[int]]:
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
