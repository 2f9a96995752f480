"""A chain run through qwend against the same commands run by hand in a shell.

    python tests/bench/pipeline.py [ROUNDS [CHECKPOINT]]

The chain is that of recipes/gguf.yaml: convert, then quantise, in realised environments. By hand the very command
lines run one after the other; both take turns. What qwend does besides (plan, lease, hash, store) has to fit into
the bound (1.05), else the exit code is 1. Without a CHECKPOINT (a folder of safetensors) it is the smoke model: four
seconds of work, of which a quarter of a second is already too much.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.house import CACHE, ROOT, House, house, tell

BOUND = 1.05
STEPS = ("f16", "q4")
RECIPE = str(ROOT / "recipes" / "gguf.yaml")


def by_hand(base: Path, folder: Path) -> float:
    """Seconds of the two commands, as a person would type them."""
    convert = next((CACHE / "images").glob("llama-cpp-convert-cpu-*/bin/python"))
    quantize = next((CACHE / "images").glob("llama-cpp-cpu-*/bin/llama-quantize"))
    script = convert.parents[1] / "share/llama.cpp/convert_hf_to_gguf.py"
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1"}
    threads = str(os.cpu_count() or 1)
    begun = time.monotonic()
    for command in (
        [str(convert), str(script), str(base), "--outfile", str(folder / "f16.gguf"), "--outtype", "f16"],
        [str(quantize), str(folder / "f16.gguf"), str(folder / "q4.gguf"), "Q4_K_M", threads],
    ):
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun


def through_qwend(qwend: House, model: list[str]) -> float:
    """Seconds of the whole command line, the daemon warm."""
    begun = time.monotonic()
    forced = [word for step in STEPS for word in ("--force", step)]
    qwend.run("up", "-d", *model, *forced, RECIPE, *STEPS)
    return time.monotonic() - begun


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    given = Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else None
    model = ["--smoke"] if given is None else ["--set", f"models.base=file:{given}"]
    with house() as qwend:
        qwend.run("up", "-d", *model, RECIPE, *STEPS)
        base = given or qwend.folder / "base"
        if given is None:
            qwend.run("store", "export", _base(qwend), str(base))
        hand, ours = [], []
        for number in range(rounds):
            folder = qwend.folder / f"hand{number}"
            folder.mkdir()
            hand.append(by_hand(base, folder))
            shutil.rmtree(folder)
            ours.append(through_qwend(qwend, model))
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, hand, strict=True))
    print(f"{'by hand':<40} {statistics.median(hand):10.1f} s")
    return 0 if tell("qwend up", statistics.median(ours), "s", ratio, "by hand", BOUND) else 1


def _base(qwend: House) -> str:
    rows = json.loads(qwend.run("ps", "--json"))
    return next(str(row["artifact"]) for row in rows if row["step"] == "base")


if __name__ == "__main__":
    sys.exit(main())
