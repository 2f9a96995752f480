"""Write a Modelfile for a model, with the model beside it. Runs inside the image; imports nothing of qwend.

    python write_modelfile.py --model DIR --wanted wanted.json --out DIR [--no-weights]

The folder is complete: `ollama create NAME -f Modelfile` works in it. The model's own template is kept beside.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from compose import JINJA, MODELFILE, compose, look
from modelfile import write
from ollama_start import report, run, say


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write a Modelfile for a model.")
    add = parser.add_argument
    add("--model", type=Path, required=True)
    add("--wanted", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--weights", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args(argv)


def make(args: argparse.Namespace) -> None:
    model = look(args.model)
    wanted = json.loads(args.wanted.read_text(encoding="utf-8"))
    source = f"./{model.files[0].name}" if model.gguf else "."
    args.out.mkdir(parents=True, exist_ok=True)
    if model.jinja is not None:  # first: where it cannot be expressed, it is what the user goes on from
        (args.out / JINJA).write_text(model.jinja, encoding="utf-8")
    text = write(compose(model, wanted, source, kept=str(args.out / JINJA)))
    (args.out / MODELFILE).write_text(text, encoding="utf-8")
    say(text)
    total, done = sum(path.stat().st_size for path in model.files), 0
    for path in model.files if args.weights else ():
        report(progress={"phase": "copy", "done": done, "total": total, "unit": "B"})
        shutil.copyfile(path, args.out / path.name)  # a link would share the mode bits of a user's own file
        done += path.stat().st_size
    if args.weights:
        report(fact={"bytes": total})


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    run("write_modelfile", lambda: make(args))


if __name__ == "__main__":
    main()
