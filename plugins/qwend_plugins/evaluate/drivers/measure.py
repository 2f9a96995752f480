"""Measure one or several models of one family the same way, and write the table. Runs inside an image.

    python measure.py --family gguf --tools DIR --model f16=DIR --model q4=DIR --text DIR
                      --measure perplexity --measure kl_divergence --out DIR --scratch DIR

The first model is the reference of divergences and answers, unless `--base` or `--before` names an artifact of an
earlier measurement, which may be of another family. The artifact: `report.json`, `report.md`, with `--save-logits` the
logits as `logits.bin`, with golden answers `golden.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from ev_common import EvalError, Measured, Settings, metric, progress, read_text, report, run, size_of
from ev_golden import compared, read_prompts
from ev_table import write_report

MEASURES = ("perplexity", "kl_divergence", "speed", "golden")


@dataclasses.dataclass
class Subject:
    """A model that is measured, and what came of it."""

    name: str
    place: Path
    parameters: int | None = None
    size: int = 0
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    speed: list[dict[str, float]] = dataclasses.field(default_factory=list)
    answers: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    tokens: str = ""
    windows: int = 0


class Measurement:
    """All that is measured of all models, one after the other."""

    def __init__(self, args: argparse.Namespace, settings: Settings) -> None:
        self.args, self.settings = args, settings
        self.measures: list[str] = args.measure
        self.scratch: Path = args.scratch
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.text = self._text()
        self.prompts = read_prompts(args.prompts) if "golden" in self.measures else []
        self.base: Path | None = args.base / "logits.bin" if args.base else None
        if self.base is not None and not self.base.is_file():
            raise EvalError("the reference's report holds no logits", "save_logits: true at its step")

    def __call__(self, subjects: list[Subject]) -> None:
        for index, subject in enumerate(subjects):
            progress(subject.name, index, len(subjects), "models")
            subject.size = size_of(subject.place)
            self._one(subject, reference=index == 0, alone=len(subjects) == 1)
            subject.figures |= {"size": subject.size}
            if subject.parameters:
                subject.figures["bits_per_weight"] = 8 * subject.size / subject.parameters
            for name, value in subject.figures.items():
                metric(subject.name, name, value, self.args.about)

    def _one(self, subject: Subject, reference: bool, alone: bool) -> None:
        wanted = [what for what in self.measures if what in ("speed", "golden")]
        save = self._save(reference, alone)
        if "kl_divergence" in self.measures and not (reference and self.base is None):
            wanted.insert(0, "kl_divergence")  # gives the perplexity, too
        elif {"perplexity", "kl_divergence"} & set(self.measures):
            wanted.insert(0, "perplexity")
        found = (
            self._gguf(subject, wanted, save)
            if self.args.family == "gguf"
            else self._net(subject, wanted, save)
        )
        for measured in found.values():
            subject.figures |= measured.figures
            subject.speed = measured.speed or subject.speed
            subject.answers = measured.answers or subject.answers
            subject.tokens, subject.windows = (
                measured.tokens or subject.tokens,
                measured.windows or subject.windows,
            )
        if reference and self.base is None and save is not None:
            self.base = save

    def _save(self, reference: bool, alone: bool) -> Path | None:
        """Where this model's logits go: kept with the artifact, or in the scratch for the models that follow."""
        if self.args.save_logits:
            return self.args.out / "logits.bin" if reference else None
        if "kl_divergence" in self.measures and reference and self.base is None and not alone:
            return self.scratch / "logits.bin"
        return None

    def _text(self) -> Path | None:
        """The text as it is measured, in a file of its own; the newline at its end is none of it."""
        if self.args.text is None:
            return None
        place: Path = self.scratch / "text.txt"
        place.write_text(read_text(self.args.text) + "\n", encoding="utf-8", newline="")
        return place

    def _gguf(self, subject: Subject, wanted: list[str], save: Path | None) -> dict[str, Measured]:
        from ev_llama import Gguf
        from ev_server import serving
        from ev_talk import answers, speed

        settings, tools = self.settings, self.args.tools
        model, found = Gguf(tools, subject.name, subject.place, settings), {}
        if "perplexity" in wanted and self.text is not None:
            found["perplexity"] = model.perplexity(self.text, save)
        if "kl_divergence" in wanted and self.base is not None:
            found["kl_divergence"] = model.divergence(self.base)
        if "speed" in wanted:
            context = max(settings.lengths) + settings.generate + 64
            with serving(
                tools, subject.name, subject.place, settings, context, max(settings.batch_sizes)
            ) as server:
                found["speed"] = speed(server, settings)
        if "golden" in wanted:
            with serving(tools, subject.name, subject.place, settings, 4096) as server:
                found["golden"] = answers(server, self.prompts, settings)
        return found

    def _net(self, subject: Subject, wanted: list[str], save: Path | None) -> dict[str, Measured]:
        """In a process of its own: what memory it takes is then its own, and all of it is given back."""
        result, task = self.scratch / "result.json", self.scratch / "task.json"
        result.unlink(missing_ok=True)
        said = {
            "family": self.args.family,
            "name": subject.name,
            "place": str(subject.place),
            "text": str(self.text),
            "measure": wanted,
            "save": str(save) if save else None,
            "base": str(self.base) if self.base else None,
            "prompts": self.prompts,
            "settings": dataclasses.asdict(self.settings),
            "result": str(result),
        }
        task.write_text(json.dumps(said), encoding="utf-8")
        driver = Path(__file__).with_name("ev_subject.py")
        ended = subprocess.run([sys.executable, str(driver), str(task)], check=False)
        if ended.returncode == 1:
            sys.exit(1)  # it has told why
        if ended.returncode or not result.is_file():
            raise EvalError(
                f"{subject.name}: the measurement ended with {ended.returncode}",
                "killed: memory may have run out"
                if ended.returncode < 0
                else "its last words are in the log",
            )
        return {
            what: Measured(**measured) for what, measured in json.loads(result.read_text("utf-8")).items()
        }


def work(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        context=args.context,
        chunks=args.chunks,
        threads=args.threads,
        device=args.device,
        dtype=args.dtype,
        lengths=tuple(args.input_length or [1]),
        batch_sizes=tuple(args.batch_size or [1]),
        generate=args.generate,
        repeats=args.repeats,
        max_tokens=args.max_tokens,
        template=args.template,
        remote_code=args.trust_remote_code,
        extra=tuple(args.extra),
    )
    counts = dict(_pair(text) for text in args.parameters)
    subjects = [
        Subject(name, Path(place), int(counts[name]) if name in counts else None)
        for name, place in map(_pair, args.model)
    ]
    measurement = Measurement(args, settings)
    measurement(subjects)
    if "golden" in args.measure:
        for subject, figures in compared(subjects, args.before, args.out):
            subject.figures |= figures
            for name, value in figures.items():
                metric(subject.name, name, value, args.about)
    text = {}
    if measurement.text is not None:
        data = measurement.text.read_bytes()
        text = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write_report(args.out, subjects, args.measure, dataclasses.asdict(settings), text)
    report(fact={"extra": {"measure": args.measure}})


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="measure", description="Measure models the same way.")
    add = parser.add_argument
    add("--family", choices=("gguf", "torch", "mlx"), required=True)
    add("--tools", type=Path, help="the folder of llama.cpp's tools")
    add("--model", action="append", required=True, metavar="NAME=PLACE")
    add("--parameters", action="append", default=[], metavar="NAME=COUNT")
    add("--measure", action="append", choices=MEASURES, required=True)
    add("--about", metavar="NAME", help="the model that the step is about, where there is but one")
    add("--text", type=Path, help="the text that perplexity is measured on")
    add("--context", type=int, default=512)
    add("--chunks", type=int)
    add("--base", type=Path, help="an artifact with logits.bin")
    add("--save-logits", action="store_true")
    add("--prompts", type=Path)
    add("--before", type=Path, help="an artifact with golden.json")
    add("--max-tokens", type=int, default=32)
    add("--template", choices=("chat", "none"), default="chat")
    add("--input-length", type=int, action="append", default=[])
    add("--batch-size", type=int, action="append", default=[])
    add("--generate", type=int, default=128)
    add("--repeats", type=int, default=1)
    add("--threads", type=int)
    add("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    add("--trust-remote-code", action="store_true")
    add("--extra", action="append", default=[], help="a further argument of llama.cpp's tools")
    add("--scratch", type=Path, required=True)
    add("--out", type=Path, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run("measure", lambda: work(parsed(sys.argv[1:])))
