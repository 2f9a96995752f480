"""Answer a batch of prompts with vLLM's engine. Runs inside the image; imports nothing of qwend.

    python vllm_batch.py --prompts FILE --out DIR --identity SHA256 … -- --model DIR --max-model-len 4096 …

What stands behind `--` are the words of vLLM's EngineArgs. As many requests as keep the engine busy are under way at
once; each answer is written down when it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from answer_text import Splitter
from batch_results import Outcome, Results
from batch_rows import BatchError, Row, read_rows, report
from openai_requests import BadRequest, Sampling, read_chat, read_completion
from vllm_start import DriverError, parser_of, read_rank, room_for, run, short_sockets

UNDER_WAY = 1024
"""So many requests are given to the engine at once: it answers max_num_seqs of them at a time."""


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The driver's options, and vLLM's words."""
    own, words = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description="Answer a batch of prompts with vLLM's engine.")
    add = parser.add_argument
    add("--prompts", type=Path, required=True, help="a file or folder of prompts")
    add("--out", type=Path, required=True)
    add("--before", type=Path, help="a folder that may hold the results of an earlier run")
    add("--identity", required=True, help="what the answers depend on besides the prompts")
    add("--name", default="model", help="the model's name in results of OpenAI's format")
    add("--sampling", type=json.loads, default={}, help="a JSON object in OpenAI's words")
    add("--no-chat", dest="chat", action="store_false", help="continue the prompts as they are")
    add("--system", help="what the system says before each prompt")
    add("--column", help="where the prompt stands in a row")
    add("--adapter", type=Path, help="the folder of a LoRA adapter")
    add("--chat-template", type=Path)
    add("--chat-template-kwargs", type=json.loads, default={})
    args = parser.parse_args(own)
    if not words:
        parser.error("vLLM's own words stand behind --")
    return args, words


class Engine:
    """vLLM's engine, and how it is asked."""

    def __init__(self, args: argparse.Namespace, words: list[str]) -> None:
        self._args = args
        if args.adapter and "--max-lora-rank" not in words:
            words = [*words, "--max-lora-rank", str(room_for([read_rank(args.adapter)]))]
        short_sockets()
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        report(progress={"phase": "load", "done": 0, "total": 1})
        from vllm.engine.arg_utils import EngineArgs
        from vllm.engine.llm_engine import LLMEngine  # in 0.10 it chooses: its new engine runs on no V100
        from vllm.lora.request import LoRARequest

        parser = EngineArgs.add_cli_args(parser_of("vllm"))
        self.engine = LLMEngine.from_engine_args(EngineArgs.from_cli_args(parser.parse_args(words)))
        self._lora = LoRARequest("adapter", 1, str(args.adapter)) if args.adapter else None
        self.tokenizer = self.engine.get_tokenizer()
        self.context = int(self.engine.model_config.max_model_len)
        self._defaults: dict[str, Any] = self.engine.model_config.get_diff_sampling_param()
        self._template = args.chat_template.read_text(encoding="utf-8") if args.chat_template else None
        self._tools: set[int] = set()

    def ask(self, row: Row) -> Outcome | None:
        """Gives a row to the engine; an Outcome where it cannot be answered."""
        body: dict[str, Any] = self._args.sampling | dict(row.body)
        try:
            if row.messages is None:
                asked, _ = read_completion(body | {"prompt": row.prompt})
                text = row.prompt or ""
            else:
                chat = read_chat(body | {"messages": row.messages})
                asked = chat.asked
                text = self._rendered(chat.messages, chat.tools, chat.options)
                if chat.tools:
                    self._tools.add(row.index)
            tokens = self.tokenizer.encode(text, add_special_tokens=False)
            self._check(tokens, asked.sampling)
            self.engine.add_request(
                str(row.index),
                {"prompt_token_ids": tokens},
                self._sampling(asked.sampling),
                lora_request=self._lora,
            )
        except (BadRequest, ValueError) as error:  # the engine's own refusals are ValueErrors
            return Outcome(None, error=str(error))
        return None

    def answers(self, rows: Mapping[int, Row]) -> list[tuple[Row, Outcome]]:
        """Computes one step; what was finished by it."""
        made = []
        for output in self.engine.step():
            if not output.finished:
                continue
            row = rows[int(output.request_id.partition("-")[0])]
            one = output.outputs[0]
            made.append((row, self._outcome(row, one, len(output.prompt_token_ids or ()))))
        return made

    def _rendered(self, messages: Any, tools: Any, options: Mapping[str, Any]) -> str:
        said = self._args.chat_template_kwargs | dict(options)
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=False,
                **said,
            )
        except Exception as error:  # whatever a template raises
            raise BadRequest(f"the model's chat template refuses these messages: {error}") from None
        return str(text)

    def _check(self, tokens: list[int], sampling: Sampling) -> None:
        wanted = len(tokens) + (sampling.max_tokens or 1)
        if not tokens or wanted > self.context:
            raise BadRequest(
                f"the prompt has {len(tokens)} tokens and {sampling.max_tokens or 1} are asked for; "
                f"the model's context is {self.context}"
            )

    def _sampling(self, asked: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        said = {
            "max_tokens": asked.max_tokens,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "top_k": asked.top_k,
            "min_p": asked.min_p,
            "repetition_penalty": asked.repetition,
            "seed": asked.seed,
            "stop": list(asked.stop) or None,
            "logit_bias": dict(asked.bias) or None,
        }
        known = {name: value for name, value in said.items() if value is not None}
        return SamplingParams(
            **(self._defaults | known),
            presence_penalty=asked.presence,
            frequency_penalty=asked.frequency,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _outcome(self, row: Row, one: Any, prompt_tokens: int) -> Outcome:
        text, calls = str(one.text), []
        if row.index in self._tools:
            split = Splitter(False, True)
            pieces = [*split.add(text), *split.rest()]
            text = "".join(piece.text for piece in pieces if piece.kind == "text")
            calls = [
                {
                    "id": f"call_{at}",
                    "type": "function",
                    "function": {"name": piece.name, "arguments": piece.text},
                }
                for at, piece in enumerate(piece for piece in pieces if piece.kind == "call")
            ]
        finish = "tool_calls" if calls else str(one.finish_reason)
        return Outcome(text, finish, prompt_tokens, len(one.token_ids), calls=tuple(calls))


def answer(engine: Engine, results: Results) -> None:
    """Answer all that is missing."""
    results.progress()
    waiting = list(reversed(results.missing()))
    under_way: dict[int, Row] = {}
    while waiting or under_way:
        while waiting and len(under_way) < UNDER_WAY:
            row = waiting.pop()
            refused = engine.ask(row)
            if refused is not None:
                results.add(row, refused)
            else:
                under_way[row.index] = row
        for row, outcome in engine.answers(under_way) if under_way else ():
            results.add(row, outcome)
            del under_way[row.index]


def batch(args: argparse.Namespace, words: list[str]) -> None:
    try:
        rows = read_rows(args.prompts, chat=args.chat, system=args.system, column=args.column)
        results = Results(rows, args.identity, args.out, args.before, args.name)
        if results.missing():
            answer(Engine(args, words), results)
        results.finish()
    except BatchError as error:
        raise DriverError(str(error), error.hint) from None


def main(argv: list[str] | None = None) -> None:
    args, words = parse(sys.argv[1:] if argv is None else argv)
    run("vllm_batch", lambda: batch(args, words))


if __name__ == "__main__":
    main()
