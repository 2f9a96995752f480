"""Answer a batch of prompts with MLX, one after the other. Runs inside the image; imports nothing of qwend.

python mlx_generate.py --model DIR --prompts FILE --out DIR --identity SHA256 --sampling '{"max_tokens": 256}'
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from answer_text import StopFilter
from batch_results import Outcome, Results
from batch_rows import BatchError, Row, read_rows
from mlx_start import DriverError, generation_config, loading, read_template, report, run
from openai_requests import BadRequest, Sampling, read_chat, read_completion


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answer a batch of prompts with MLX.")
    add = parser.add_argument
    add("--model", type=Path, required=True)
    add("--prompts", type=Path, required=True, help="a file or folder of prompts")
    add("--out", type=Path, required=True)
    add("--before", type=Path, help="a folder that may hold the results of an earlier run")
    add("--identity", required=True, help="what the answers depend on besides the prompts")
    add("--name", default="model", help="the model's name in results of OpenAI's format")
    add("--sampling", type=json.loads, default={}, help="a JSON object in OpenAI's words")
    add("--no-chat", dest="chat", action="store_false", help="continue the prompts as they are")
    add("--system", help="what the system says before each prompt")
    add("--column", help="where the prompt stands in a row")
    add("--template-file", type=Path)
    add("--chat-template-args", type=json.loads, default={})
    add("--max-kv-size", type=int)
    add("--trust-remote-code", action="store_true")
    return parser.parse_args(argv)


class Answerer:
    """A loaded model that answers rows."""

    def __init__(self, args: argparse.Namespace) -> None:
        from mlx_lm import load

        report(progress={"phase": "load", "done": 0, "total": 1})
        config: dict[str, Any] = {"trust_remote_code": args.trust_remote_code}
        if args.template_file:
            config["chat_template"] = read_template(args.template_file)
        with loading():
            self.model, self.tokenizer = load(
                str(args.model), tokenizer_config=config, trust_remote_code=args.trust_remote_code
            )
        said = json.loads((args.model / "config.json").read_bytes())
        self.context = int(said.get("max_position_embeddings") or sys.maxsize)
        self.args, self.own = args, generation_config(args.model)

    def answer(self, row: Row) -> Outcome:
        """The answer of a row, or why there is none."""
        body: dict[str, Any] = self.own | self.args.sampling | dict(row.body)
        try:
            if row.messages is None:
                asked, _ = read_completion(body | {"prompt": row.prompt})
                tokens = self.tokenizer.encode(row.prompt or "", add_special_tokens=False)
            else:
                chat = read_chat(body | {"messages": row.messages})
                asked, options = chat.asked, self.args.chat_template_args | chat.options
                tokens = self.tokenizer.apply_chat_template(
                    chat.messages, tools=chat.tools, add_generation_prompt=True, **options
                )
        except BadRequest as error:
            return Outcome(None, error=str(error))
        except Exception as error:  # whatever a template raises
            return Outcome(None, error=f"the model's chat template refuses these messages: {error}")
        most = asked.sampling.max_tokens or 512
        if not tokens or len(tokens) + most > self.context:
            said = f"the prompt has {len(tokens)} tokens and {most} are asked for"
            said += f"; the model's context is {self.context}"
            return Outcome(None, prompt_tokens=len(tokens), error=said)
        return self._generated(tokens, asked.sampling, most)

    def _generated(self, tokens: list[int], sampling: Sampling, most: int) -> Outcome:
        import mlx.core as mx
        from mlx_lm import stream_generate
        from mlx_lm.sample_utils import make_logits_processors, make_sampler

        if sampling.seed is not None:
            mx.random.seed(sampling.seed)
        stops, text, count, finish = StopFilter(sampling.stop), "", 0, "length"
        for piece in stream_generate(
            self.model,
            self.tokenizer,
            tokens,
            max_tokens=most,
            max_kv_size=self.args.max_kv_size,
            sampler=make_sampler(
                sampling.temperature or 0.0,
                sampling.top_p or 0.0,
                sampling.min_p or 0.0,
                top_k=sampling.top_k or 0,
            ),
            logits_processors=make_logits_processors(
                dict(sampling.bias) or None,
                sampling.repetition,
                presence_penalty=sampling.presence or None,
                frequency_penalty=sampling.frequency or None,
            ),
        ):
            count = piece.generation_tokens
            text += stops.add(piece.text)
            if piece.finish_reason:
                finish = piece.finish_reason
            if stops.stopped:
                finish = "stop"
                break
        text += "" if stops.stopped else stops.rest()
        return Outcome(text, finish, len(tokens), count)


def generate(args: argparse.Namespace) -> None:
    """Answer what is missing, and write the results."""
    try:
        rows = read_rows(args.prompts, chat=args.chat, system=args.system, column=args.column)
        results = Results(rows, args.identity, args.out, args.before, args.name)
        if missing := results.missing():
            answerer = Answerer(args)
            if args.chat and answerer.tokenizer.chat_template is None:
                raise DriverError(
                    "the model has no chat template", "give one as chat_template, or say chat: false"
                )
            results.progress()
            for row in missing:
                results.add(row, answerer.answer(row))
        results.finish()
    except BatchError as error:
        raise DriverError(str(error), error.hint) from None


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    run("mlx_generate", lambda: generate(args))


if __name__ == "__main__":
    main()
