"""Train a tiny checkpoint for a minute on a text, so that its perplexity means something.

    python tf_smoke.py --model DIR --out DIR --text FILE_OR_DIR --max-steps 60

Without a text the checkpoint is read and written as transformers writes one. The last tenth of the text is held out:
its perplexity is measured before and after. Runs inside the image; imports nothing of qwend.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from tf_load import DriverError, Loaded, add_model_options, load, report, run

WINDOW, BATCH, HELD_OUT, TELL_EVERY = 128, 4, 0.1, 5
MOST_PARAMETERS = 500_000_000


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a tiny checkpoint for a minute on a text.")
    add_model_options(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True)
    add("--text", type=Path)
    add("--max-steps", type=int, default=60)
    add("--learning-rate", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


def read_text(path: Path) -> str:
    """All text of a file or folder: .txt as it is, rows of .jsonl by `text`."""
    found = [path] if path.is_file() else sorted(path.rglob("*.jsonl")) or sorted(path.rglob("*.txt"))
    parts = []
    for file in found:
        with file.open(encoding="utf-8") as lines:
            try:
                parts += (
                    [json.loads(line)["text"] for line in lines]
                    if file.suffix == ".jsonl"
                    else [lines.read()]
                )
            except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
                raise DriverError(f"{file.name} cannot be read as text: {error}") from None
    return "\n".join(map(str, parts))


def windows(loaded: Loaded, text: str) -> Any:
    """The text's tokens in rows of WINDOW: (rows, WINDOW), int64."""
    import torch

    tokens = torch.tensor(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
    rows = len(tokens) // WINDOW
    if rows < 20:
        need = 20 * WINDOW
        raise DriverError(
            f"the text has {len(tokens)} tokens; it should have {need} at least", "take a longer one"
        )
    return tokens[: rows * WINDOW].reshape(rows, WINDOW)


def perplexity(loaded: Loaded, rows: Any) -> float:
    """exp of the mean loss over rows of tokens."""
    import torch

    with torch.inference_mode():
        losses = [float(loaded.model(input_ids=part, labels=part).loss) for part in rows.split(BATCH)]
    return math.exp(min(sum(losses) / len(losses), 700.0))


def batches(rows: Any, steps: int, seed: int) -> Iterator[Any]:
    """`steps` batches, each epoch in an order of its own."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        while len(order) < BATCH:
            order += torch.randperm(len(rows), generator=generator).tolist()
        taken, order = order[:BATCH], order[BATCH:]
        yield rows[taken]


def train(loaded: Loaded, args: argparse.Namespace) -> None:
    import torch

    rows = windows(loaded, read_text(args.text)).to(loaded.model.device)
    held = max(4, int(len(rows) * HELD_OUT))
    learned, measured = rows[:-held], rows[-held:]
    torch.manual_seed(args.seed)
    before = perplexity(loaded, measured)
    optimiser = torch.optim.AdamW(loaded.model.parameters(), lr=args.learning_rate, weight_decay=0.0)
    warmup = max(1, args.max_steps // 10)
    loaded.model.train()
    for step, batch in enumerate(batches(learned, args.max_steps, args.seed), 1):
        for group in optimiser.param_groups:
            group["lr"] = args.learning_rate * min(1.0, step / warmup)
        loss = loaded.model(input_ids=batch, labels=batch).loss
        if not math.isfinite(float(loss.detach())):
            raise DriverError(f"the loss is no number any more at step {step}", "a lower learning_rate")
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
        optimiser.step()
        if step % TELL_EVERY == 0 or step == args.max_steps:
            report(progress={"phase": "train", "done": step, "total": args.max_steps, "unit": "step"})
    loaded.model.eval()
    after = perplexity(loaded, measured)
    report(metric={"name": "perplexity_before", "value": round(before, 3)})
    report(metric={"name": "perplexity", "value": round(after, 3)})
    print(f"perplexity {before:.1f} -> {after:.1f} after {args.max_steps} steps", flush=True)


def work(args: argparse.Namespace) -> None:
    import torch

    args.dtype = "float32"  # a tiny model is trained in full precision and written in its own
    written = json.loads((args.model / "config.json").read_text(encoding="utf-8"))
    loaded = load(args)
    if sum(weight.numel() for weight in loaded.model.parameters()) > MOST_PARAMETERS:
        raise DriverError("the model is too large for this", "llama-factory/train tunes real models")
    if args.text:
        train(loaded, args)
    kind = getattr(torch, str(written.get("dtype") or written.get("torch_dtype") or "bfloat16"))
    loaded.model.to(kind).save_pretrained(args.out)
    loaded.tokenizer.save_pretrained(args.out)
    for file in args.out.iterdir():  # transformers writes weights that only their owner reads
        file.chmod(0o644)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    run("tf_smoke", lambda: work(args))


if __name__ == "__main__":
    main()
