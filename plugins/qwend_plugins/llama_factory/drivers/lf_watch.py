"""What happens while a model trains: progress, loss, tokens per second; stops where the loss is no number.

A callback of transformers' Trainer by its shape alone (any object with `on_…` methods is one), so that this file can be
read and tested without torch.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lf_checkpoints import checkpoints
from lf_report import Refused, metric, progress

REPORTED = {"loss": "loss", "eval_loss": "eval_loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm",
            "rewards/accuracies": "reward_accuracy", "reward": "reward"}  # fmt: skip


class Watch:
    """Reports steps; ends the training at the next step once `stop` was called."""

    def __init__(self, out: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.stopping = False
        self.stopped = False
        self.good = 0
        """The last step whose loss was a number."""
        self._out = out
        self._clock = clock
        self._tokens = 0
        self._since = 0.0
        self._said = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *args, **kwargs: None
        raise AttributeError(name)

    def stop(self) -> None:
        self.stopping = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.good = state.global_step
        self._tokens, self._since = int(state.num_input_tokens_seen or 0), self._clock()
        if state.global_step:
            print(f"goes on at step {state.global_step} of {state.max_steps}", flush=True)
        self._tell(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell(state)
        if self.stopping:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        logs = logs or {}
        for key in ("loss", "eval_loss"):
            value = logs.get(key)
            if isinstance(value, (int, float)) and not math.isfinite(value):
                self._lost(key, state.global_step)
        if not state.is_world_process_zero:
            return
        self.good = state.global_step
        for key, name in REPORTED.items():
            if isinstance(logs.get(key), (int, float)) and math.isfinite(logs[key]):
                metric(name, float(logs[key]))
        rate = self._rate(state)
        parts = [f"loss {logs['loss']:.4g}"] if "loss" in logs else []
        parts += [f"lr {logs['learning_rate']:.3g}"] if "learning_rate" in logs else []
        parts += [f"{rate:.0f} tokens/s"] if rate else []
        if parts:
            self._said = ", ".join(parts)
        self._tell(state)

    def _rate(self, state: Any) -> float | None:
        """Tokens per second since the last call; None where they are not counted."""
        tokens, now = int(state.num_input_tokens_seen or 0), self._clock()
        seen, passed = tokens - self._tokens, now - self._since
        if seen <= 0 or passed <= 0:
            return None
        self._tokens, self._since = tokens, now
        metric("tokens_per_second", seen / passed)
        return seen / passed

    def _lost(self, key: str, step: int) -> None:
        """Raises Refused; checkpoints made since the last good step hold weights that are no numbers."""
        for at, path in checkpoints(self._out):
            if at > self.good:
                shutil.rmtree(path, ignore_errors=True)
        before = f"it was one at step {self.good}" if self.good else "from the first one on"
        raise Refused(
            f"the {key.replace('_', ' ')} is not a number at step {step} ({before})",
            "lower learning_rate, raise warmup_ratio, or use bf16 instead of fp16; look for broken rows in the data",
        )

    def _tell(self, state: Any) -> None:
        if state.is_world_process_zero:
            progress("train", state.global_step, state.max_steps, "steps", self._said)
