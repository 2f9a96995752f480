"""What checkpoints with a tokenizer of transformers have in common, whoever runs them: torch or MLX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ev_common import EvalError
from ev_talk import clock, random_tokens


class Checkpoint:
    """The half of a `Net` and of a `Talker` that is the tokenizer's, and how writing is timed."""

    name: str
    tokenizer: Any
    vocabulary: int

    def tokens(self, text: str) -> list[int]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.encode_special_tokens = True  # words that look like special tokens are words
        try:
            return list(self.tokenizer(text, add_special_tokens=True)["input_ids"])
        finally:
            if backend is not None:
                backend.encode_special_tokens = False

    def begin(self) -> int | None:
        begin = self.tokenizer.bos_token_id
        return begin if begin is not None and self.tokens("a")[:1] == [begin] else None

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        if not self.tokenizer.chat_template:
            raise EvalError(f"{self.name} has no chat template", "template: none asks without one")
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def greedy(self, tokens: Sequence[int], most: int) -> list[int]:
        stop = self.ends()
        found: list[int] = []
        for token in self.written([list(tokens)], most):
            if token[0] in stop:
                break
            found.append(token[0])
        return found

    def words(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens)))

    def timed(self, batch: int, length: int, generate: int) -> tuple[float, float]:
        prompts = [random_tokens(length + index, self.vocabulary)[:length] for index in range(batch)]
        begun = first = clock()
        for index, _ in enumerate(self.written(prompts, generate + 1)):
            if index == 0:
                first = clock()
        return first - begun, max(clock() - first, 1e-9)

    def ends(self) -> set[int]:
        """Tokens that end an answer."""
        raise NotImplementedError

    def written(self, prompts: list[list[int]], most: int) -> Iterator[list[int]]:
        """The likeliest next tokens, one for each prompt, `most` times; prompts are of one length."""
        raise NotImplementedError
