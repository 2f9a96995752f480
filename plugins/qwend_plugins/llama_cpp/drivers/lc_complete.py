"""Let a model go on from a text, with llama-completion: no chat template, no conversation.

    python lc_complete.py --tool llama-completion --model FILE --prompt FILE --out DIR -- ARGUMENTS

OUT/results.jsonl holds `{"prompt", "completion"}`; the completion is also the last of the log.
Metrics: `prompt_speed` and `generation_speed` in tokens a second, where the tool tells them.
Exit codes: 0 done, 1 the tool fails, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from lc_common import metric, run, told

SPEEDS = {
    "prompt_speed": r"prompt eval time =.*?([\d.]+) tokens per second",
    "generation_speed": r"(?<!prompt)\s+eval time =.*?([\d.]+) tokens per second",
}


def main(argv: list[str]) -> None:
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description="Let a model go on from a text.")
    for name in ("--tool", "--model"):
        parser.add_argument(name, required=True)
    for name in ("--prompt", "--out"):
        parser.add_argument(name, type=Path, required=True)
    args = parser.parse_args(argv[:at])
    printed: list[str] = []
    own = [
        "-m",
        args.model,
        "-f",
        str(args.prompt),
        "-no-cnv",
        "--no-display-prompt",
        "--simple-io",
        "--offline",
    ]
    said = run([args.tool, *own, *argv[at + 1 :]], stdout=printed.append)
    completion = printed[0].removesuffix("\n").removesuffix(" [end of text]")
    row = {"prompt": args.prompt.read_text(encoding="utf-8"), "completion": completion}
    (args.out / "results.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, pattern in SPEEDS.items():
        if found := re.search(pattern, said):
            metric(name, float(found[1]))
    print(completion, flush=True)


if __name__ == "__main__":
    told(main, sys.argv[1:], "complete")
