"""Run a tool that writes GGUF files, then read from their headers what it made of the model.

    python make_gguf.py OUT_FOLDER -- TOOL ARGUMENTS

Bits per weight and size are facts of the artifact and metrics (`bits_per_weight`, `size`), so gates can ask for them.
Exit codes: 0 done, 1 the tool fails or what it wrote cannot be read, 2 usage.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import lc_gguf
from lc_common import ToolError, metric, report, run, told

FALLBACK = re.compile(r"(\d+) of (\d+) tensor\(s\) required fallback quantization")


def main(argv: list[str]) -> None:
    if len(argv) < 3 or argv[1] != "--":
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    out = Path(argv[0])
    try:
        said = run(argv[2:])
    except ToolError:
        for part in out.glob("*.gguf"):  # what is half-written is never taken for a model
            part.unlink()
        raise
    measure(out, said)


def measure(out: Path, said: str = "") -> None:
    """Report what the files of the folder hold."""
    try:
        facts = lc_gguf.facts(out)
    except ValueError as error:
        raise ToolError(f"what was written is no whole GGUF: {error}", "is the disk full?") from None
    if found := FALLBACK.search(said):
        facts["extra"]["fallback_tensors"] = int(found[1])
    report(fact=facts)
    metric("bits_per_weight", facts["bits"])
    metric("size", sum(file.stat().st_size for file in out.glob("*.gguf")))


if __name__ == "__main__":
    told(main, sys.argv[1:], "llama.cpp")
