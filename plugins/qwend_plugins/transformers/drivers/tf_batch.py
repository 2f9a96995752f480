"""Answer a batch of prompts with transformers. Runs inside the image; imports nothing of qwend.

    python tf_batch.py --model DIR --device cpu --prompts FILE --out DIR --identity SHA256 --max-tokens 256

Several prompts are answered at once, padded on the left and sorted by length, so that little is computed for the
padding. Where memory ends, the number of prompts at once is halved.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from answer_text import Splitter, StopFilter
from batch_results import Outcome, Results
from batch_rows import BatchError, Row, read_rows, report
from hf_generate import end_tokens, penalties, settings
from openai_requests import BadRequest, Sampling, read_chat, read_completion
from tf_load import DriverError, Loaded, add_model_options, check_template, load, out_of_memory, run


@dataclass(frozen=True)
class Asked:
    """A row that can be answered: its tokens, and how to sample."""

    row: Row
    tokens: list[int]
    sampling: Sampling
    tools: bool = False


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answer a batch of prompts with transformers.")
    add_model_options(parser)
    add = parser.add_argument
    add("--prompts", type=Path, required=True, help="a file or folder of prompts")
    add("--out", type=Path, required=True)
    add("--before", type=Path, help="a folder that may hold the results of an earlier run")
    add("--identity", required=True, help="what the answers depend on besides the prompts")
    add("--name", default="model", help="the model's name in results of OpenAI's format")
    add("--sampling", type=json.loads, default={}, help="a JSON object in OpenAI's words")
    add("--batch-size", type=int, default=8, help="prompts answered at once")
    add("--no-chat", dest="chat", action="store_false", help="continue the prompts as they are")
    add("--system", help="what the system says before each prompt")
    add("--column", help="where the prompt stands in a row")
    add("--chat-template-kwargs", type=json.loads, default={})
    return parser.parse_args(argv)


def ask(loaded: Loaded, row: Row, args: argparse.Namespace) -> Asked | Outcome:
    """The row as tokens; an Outcome where it cannot be answered."""
    body: dict[str, Any] = args.sampling | dict(row.body)
    try:
        if row.messages is None:
            asked, _ = read_completion(body | {"prompt": row.prompt})
            text, tools = row.prompt or "", False
        else:
            chat = read_chat(body | {"messages": row.messages})
            asked, tools = chat.asked, bool(chat.tools)
            options = args.chat_template_kwargs | chat.options
            text = loaded.tokenizer.apply_chat_template(
                chat.messages, tools=chat.tools, add_generation_prompt=True, tokenize=False, **options
            )
    except BadRequest as error:
        return Outcome(None, error=str(error))
    except Exception as error:  # whatever a template raises
        return Outcome(None, error=f"the model's chat template refuses these messages: {error}")
    tokens = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    wanted = len(tokens) + (asked.sampling.max_tokens or 1)
    if not tokens or wanted > loaded.context:
        return Outcome(
            None,
            prompt_tokens=len(tokens),
            error=f"the prompt has {len(tokens)} tokens and {asked.sampling.max_tokens or 1} are asked for; "
            f"the model's context is {loaded.context}",
        )
    return Asked(row, tokens, asked.sampling, tools)


def groups(asked: list[Asked], size: int) -> Iterator[list[Asked]]:
    """Rows that can be answered at once: sampled alike, longest first, so that memory ends at the beginning if ever."""
    alike: dict[Sampling, list[Asked]] = {}
    for one in asked:
        alike.setdefault(one.sampling, []).append(one)
    for rows in alike.values():
        rows.sort(key=lambda one: -len(one.tokens))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def generate(loaded: Loaded, group: list[Asked]) -> list[Outcome]:
    """The answers of one group."""
    import torch
    from transformers import StoppingCriteriaList, StopStringCriteria

    longest = max(len(one.tokens) for one in group)
    sampling = group[0].sampling
    config = settings(loaded, sampling, longest)
    ends = end_tokens(loaded, config)
    config.eos_token_id = sorted(ends)
    pad = loaded.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(one.tokens)) + one.tokens for one in group])
    mask = torch.tensor([[0] * (longest - len(one.tokens)) + [1] * len(one.tokens) for one in group])
    stops = StoppingCriteriaList()
    if sampling.stop:
        stops.append(StopStringCriteria(loaded.tokenizer, list(sampling.stop)))
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    device = loaded.model.device
    with torch.inference_mode():
        made = loaded.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            stopping_criteria=stops,
            logits_processor=penalties(sampling, longest),
        )
    return [_outcome(loaded, one, row[longest:].tolist(), ends) for one, row in zip(group, made, strict=True)]


def _outcome(loaded: Loaded, one: Asked, tokens: list[int], ends: set[int]) -> Outcome:
    at = next((index for index, token in enumerate(tokens) if token in ends), None)
    kept = tokens if at is None else tokens[:at]
    stops = StopFilter(one.sampling.stop)
    text = stops.add(str(loaded.tokenizer.decode(kept, skip_special_tokens=True)))
    text += "" if stops.stopped else stops.rest()
    finish = "stop" if at is not None or stops.stopped else "length"
    count = len(kept) + (at is not None)
    if stops.stopped:  # the others of the group went on: what was padded does not count
        count = min(count, len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1)
    calls: tuple[Mapping[str, Any], ...] = ()
    if one.tools:
        split = Splitter(False, True)
        pieces = [*split.add(text), *split.rest()]
        text = "".join(piece.text for piece in pieces if piece.kind == "text")
        calls = tuple(
            {
                "id": f"call_{index}",
                "type": "function",
                "function": {"name": piece.name, "arguments": piece.text},
            }
            for index, piece in enumerate(piece for piece in pieces if piece.kind == "call")
        )
    return Outcome(text, "tool_calls" if calls else finish, len(one.tokens), count, calls=calls)


def answer(loaded: Loaded, results: Results, args: argparse.Namespace) -> None:
    """Answer all that is missing."""
    wanted: list[Asked] = []
    for row in results.missing():
        asked = ask(loaded, row, args)
        if isinstance(asked, Outcome):
            results.add(row, asked)
        else:
            wanted.append(asked)
    results.progress()
    size, waiting = args.batch_size, wanted
    while waiting:
        done: set[int] = set()
        try:
            for group in groups(waiting, size):
                for one, outcome in zip(group, generate(loaded, group), strict=True):
                    results.add(one.row, outcome)
                    done.add(one.row.index)
        except (RuntimeError, MemoryError) as error:
            if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
                raise
            if size == 1:
                raise out_of_memory(error) from None
            size = max(1, size // 2)
            print(f"memory ended: {size} prompts at once from here on", file=sys.stderr, flush=True)
            _free(loaded)
        waiting = [one for one in waiting if one.row.index not in done]


def _free(loaded: Loaded) -> None:
    if loaded.device == "cuda":
        import torch

        torch.cuda.empty_cache()


def batch(args: argparse.Namespace) -> None:
    try:
        rows = read_rows(args.prompts, chat=args.chat, system=args.system, column=args.column)
        results = Results(rows, args.identity, args.out, args.before, args.name)
        if results.missing():
            loaded = load(args)
            if any(row.messages is not None for row in rows):
                check_template(loaded)
            answer(loaded, results, args)
        results.finish()
    except BatchError as error:
        raise DriverError(str(error), error.hint) from None


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    report(progress={"phase": "read", "done": 0, "total": 1})
    run("tf_batch", lambda: batch(args))


if __name__ == "__main__":
    main()
