"""Generate with transformers, one answer token by token, or a batch. Runs inside the image, without qwend."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from answer_text import Answer, Decoder, Piece, Splitter, StopFilter
from openai_requests import Sampling


class Loaded(Protocol):
    """A model of transformers, its tokenizer, and how many tokens prompt and answer may have together."""

    model: Any
    tokenizer: Any
    context: int


class Generating:
    """The half of an Engine (openai_worker) that is the same for whatever transformers generates with: a Loaded."""

    model: Any
    tokenizer: Any
    context: int

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(text)["input_ids"]
        return tokens

    def answer(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        give: Callable[[Piece], None],
        *,
        splitter: Splitter,
        cancelled: threading.Event,
    ) -> Answer:
        return answer(self, prompt, sampling, give, splitter=splitter, cancelled=cancelled)


class Cancelled(Exception):
    """Raised inside of generate: nobody waits for the answer any more."""


def settings(loaded: Loaded, sampling: Sampling, prompt_tokens: int) -> Any:
    """The generation config of one request: the model's own, changed by what the request says."""
    config = copy.deepcopy(loaded.model.generation_config)
    room = loaded.context - prompt_tokens
    config.max_new_tokens = min(room, sampling.max_tokens) if sampling.max_tokens else room
    config.max_length = None
    config.pad_token_id = loaded.tokenizer.pad_token_id
    if sampling.temperature is not None:
        config.do_sample = sampling.temperature > 0
        config.temperature = sampling.temperature or None
    for name, value in (
        ("top_p", sampling.top_p),
        ("top_k", sampling.top_k),
        ("min_p", sampling.min_p),
        ("repetition_penalty", sampling.repetition),
    ):
        if value is not None:
            setattr(config, name, value)
    if not config.do_sample:  # transformers warns of what a greedy search does not use
        config.temperature = config.top_p = config.top_k = config.min_p = None
    if sampling.bias:
        config.sequence_bias = [[[token], value] for token, value in sampling.bias]
    return config


def end_tokens(loaded: Loaded, config: Any) -> set[int]:
    """The tokens that end an answer."""
    ids = config.eos_token_id
    found = {ids} if isinstance(ids, int) else set(ids or ())
    own = loaded.tokenizer.eos_token_id
    return found | ({own} if own is not None else set())


class _Follower:
    """What generate hands its tokens to; raises Cancelled where nobody waits."""

    def __init__(self, take: Callable[[int], None], cancelled: threading.Event) -> None:
        self._take, self._cancelled, self._prompt = take, cancelled, True

    def put(self, value: Any) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        if self._prompt:  # the first is the prompt itself
            self._prompt = False
            return
        for token in value.flatten().tolist():
            self._take(token)

    def end(self) -> None:
        pass


def answer(
    loaded: Loaded,
    prompt: Sequence[int],
    sampling: Sampling,
    give: Callable[[Piece], None],
    *,
    splitter: Splitter | None = None,
    cancelled: threading.Event | None = None,
) -> Answer:
    """Answer one prompt; `give` gets the pieces as they come. Not for several threads at once."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    cancelled = cancelled or threading.Event()
    config = settings(loaded, sampling, len(prompt))
    ends = end_tokens(loaded, config)
    config.eos_token_id = sorted(ends)
    decoder = Decoder(lambda tokens: str(loaded.tokenizer.decode(tokens, skip_special_tokens=True)))
    stops, split = StopFilter(sampling.stop), splitter or Splitter(False, False)
    made = Answer(len(prompt))

    def out(text: str) -> None:
        for piece in split.add(text):
            made.pieces.append(piece)
            give(piece)

    def take(token: int) -> None:
        made.tokens += 1
        if token not in ends:
            out(stops.add(decoder.add(token)))

    class Stopped(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
            return torch.full((ids.shape[0],), stops.stopped, device=ids.device, dtype=torch.bool)

    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    ids = torch.tensor([list(prompt)], device=loaded.model.device)
    try:
        with torch.inference_mode():
            made_ids = loaded.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                streamer=_Follower(take, cancelled),
                stopping_criteria=StoppingCriteriaList([Stopped()]),
                logits_processor=penalties(sampling, len(prompt)),
            )
    except Cancelled:
        made.finish = "cancelled"
        return made
    if not stops.stopped:
        out(stops.add(decoder.rest()))
        out(stops.rest())
    for piece in split.rest():
        made.pieces.append(piece)
        give(piece)
    ended = stops.stopped or int(made_ids[0, -1]) in ends
    made.finish = "stop" if ended else "length"
    return made


def penalties(sampling: Sampling, prompt_tokens: int) -> Any:
    """OpenAI's penalties, which transformers lacks: they count the tokens of the answer alone."""
    from transformers import LogitsProcessor, LogitsProcessorList

    if not sampling.presence and not sampling.frequency:
        return LogitsProcessorList()
    import torch

    class Penalties(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, ids: Any, scores: Any) -> Any:
            given = ids[:, prompt_tokens:]
            counts = torch.zeros_like(scores).scatter_add_(
                1, given, torch.ones_like(given, dtype=scores.dtype)
            )
            return scores - sampling.frequency * counts - sampling.presence * (counts > 0)

    return LogitsProcessorList([Penalties()])
