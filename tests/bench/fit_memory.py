"""What `qwend plan` and `qwend fit` say of memory, held against what serving takes.

    python tests/bench/fit_memory.py [FILE.gguf …]

Each service answers one prompt that fills half of its context; its peak is the largest resident set of its processes
so far, mapped weights included. An estimate that is below the peak is a missed bound (1): exit code 1. One that is much
above keeps models off machines that could hold them: that ratio is what is printed.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.house import House, house, tell

BOUND = 1.0
RECIPE = """\
version: 1
name: fit_memory
models: {base: smoke:qwen2}
steps:
  f16: {uses: llama-cpp/convert, from: base, with: {outtype: f16}}
  q8: {uses: llama-cpp/quantize, from: f16, with: {type: Q8_0}}
"""
OWN = """\
version: 1
name: fit_memory
models: {{model: {model}}}
steps:
  chat: {{uses: llama-cpp/serve, from: model, with: {{{options}}}}}
"""
SERVED = [
    ("f16", "llama-cpp/serve", {"context": 2048}),
    ("f16", "llama-cpp/serve", {"context": 32768}),
    ("q8", "llama-cpp/serve", {"context": 2048}),
    ("base", "transformers/serve", {}),
]


def peak(pid: int) -> int:
    """Largest resident set so far of a process and of those below it, in bytes."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    status = [Path(f"/proc/{one}/status").read_text() for one in found]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) * 1024 for text in status if "VmHWM:" in text)


def measure(qwend: House, recipe: str, context: int) -> tuple[int, int]:
    """Bytes that the plan says and that the one service of a recipe took."""
    path = qwend.folder / "recipe.yaml"
    path.write_text(recipe)
    plan = json.loads(qwend.run("plan", "--json", str(path)))
    told = next(step for step in plan["compiled"]["steps"] if step["kind"] == "service")["resources"][
        "memory"
    ]
    qwend.run("up", "-d", str(path))
    row = next(row for row in json.loads(qwend.run("ps", "--json")) if row["kind"] == "service")
    body = {"model": row["step"], "prompt": "word " * (context // 2), "max_tokens": 4}
    if "transformers" in row["engine"]:
        body = {
            "model": row["step"],
            "messages": [{"role": "user", "content": body.pop("prompt")}],
            "max_tokens": 4,
        }
    where = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    request = urllib.request.Request(
        row["url"] + where, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=1800) as answer:
        answer.read()
    taken = peak(row["pid"])
    qwend.run("down", "-p", row["recipe"])
    return int(told), taken


def main(files: list[str]) -> int:
    well = True
    with house() as qwend:
        for source, engine, options in SERVED:
            chat = f"  chat: {{uses: {engine}, from: {source}, with: {json.dumps(options)}}}\n"
            context = min(int(options.get("context", 1024)), 8192)
            well &= _row(
                f"{source} {engine} {options.get('context', '')}", measure(qwend, RECIPE + chat, context)
            )
        for file in files:
            for context in (2048, 16384):
                model = json.dumps(f"file:{Path(file).absolute()}")
                text = OWN.format(model=model, options=f"context: {context}, parallel: 1")
                well &= _row(f"{Path(file).name[:24]} {context}", measure(qwend, text, min(context, 2048)))
    return 0 if well else 1


def _row(name: str, figures: tuple[int, int]) -> bool:
    told, taken = figures
    return tell(name, taken / 2**20, "MiB", taken / told, f"the {told / 2**20:.0f} MiB of the plan", BOUND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
