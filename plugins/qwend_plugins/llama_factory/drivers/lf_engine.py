"""What answers behind `llama-factory/serve`: the model as LLaMA-Factory loads it, prompts by the training's template.

Its own API server passes stop texts, seeds and most other settings over, counts no tokens of a stream, and takes any
model's name; so the server of `transformers/serve` stands in front, and this is its Engine (openai_worker).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

from hf_generate import Generating
from lf_report import Refused
from openai_requests import BadRequest, Chat
from openai_worker import Prompt

ROLES = {"user": "user", "assistant": "assistant", "tool": "observation"}


class LlamaFactory(Generating):
    """An Engine."""

    def __init__(self, told: dict[str, Any], context: int | None) -> None:
        """Loads the model that LLaMA-Factory's arguments name. Raises Refused where it generates nothing."""
        made: Any = importlib.import_module("llamafactory.chat.chat_model").ChatModel(told)
        engine = made.engine
        if not engine.can_generate:
            raise Refused("a reward model answers nothing", "serve the model that it judged")
        self.model, self.tokenizer, self._template = engine.model, engine.tokenizer, engine.template
        trained = getattr(self.model.config, "max_position_embeddings", None)
        known = trained if isinstance(trained, int) else 32_768
        self.context = min(context, known) if context else known
        self.vocabulary = len(self.tokenizer)
        said = engine.generating_args
        self.most: int | None = said.get("max_new_tokens")
        self.model.generation_config = self._generation(said)

    def _generation(self, said: dict[str, Any]) -> Any:
        """LLaMA-Factory's defaults of sampling, as the model's own."""
        make: Any = importlib.import_module("transformers").GenerationConfig
        names = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
        kept = {name: said[name] for name in names if said.get(name) is not None}
        if not kept.get("do_sample"):
            kept = {name: kept[name] for name in kept if name in ("do_sample", "repetition_penalty")}
        ends = self._template.get_stop_token_ids(self.tokenizer)
        return make(**kept, eos_token_id=ends, pad_token_id=self.tokenizer.pad_token_id)

    def prompt(self, chat: Chat) -> Prompt:
        if chat.options:
            raise BadRequest(
                "the template of a training takes no arguments; enable_thinking stands in the recipe",
                "chat_template_kwargs",
            )
        system, turns = by_turns(chat.messages)
        tools = None
        if chat.tools:
            functions = [tool.get("function", tool) for tool in chat.tools]
            tools = json.dumps(functions, ensure_ascii=False)
        whole = [*turns, {"role": "assistant", "content": ""}]
        try:
            tokens, _ = self._template.encode_oneturn(self.tokenizer, whole, system, tools)
        except Exception as error:  # formatters raise what they like
            raise BadRequest(f"the template refuses these messages: {error}", "messages") from None
        end = str(self.tokenizer.decode(tokens[-8:]))
        return Prompt(tokens, end.rstrip().endswith("<think>"))


def by_turns(messages: Sequence[dict[str, Any]]) -> tuple[str | None, list[dict[str, str]]]:
    """The system's words, and the turns as LLaMA-Factory's templates take them: a question (or what a tool said) and
    an answer (or calls of tools) in turn, a question last. Raises BadRequest for another order."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    turns: list[dict[str, str]] = []
    for index, message in enumerate(messages[1:] if system is not None else messages):
        if (message["role"] == "assistant") != bool(index % 2) or message["role"] not in ROLES:
            raise BadRequest(
                "LLaMA-Factory's templates want system, then user or tool and assistant in turn; "
                f"{message['role']} stands out of turn",
                "messages",
            )
        if calls := message.get("tool_calls"):
            said = [call["function"] for call in calls]
            turns.append({"role": "function", "content": json.dumps(said, ensure_ascii=False)})
        else:
            turns.append({"role": ROLES[message["role"]], "content": message["content"]})
    if not len(turns) % 2:
        raise BadRequest("the last message should be the user's, or a tool's", "messages")
    return system, turns
