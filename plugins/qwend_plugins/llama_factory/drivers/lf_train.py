"""Train with LLaMA-Factory: check the data, go on from the last whole checkpoint, leave an artifact.

Runs inside the image and imports nothing of qwend:

    python lf_train.py --arguments arguments.json --model DIR --out DIR --scratch DIR --data NAME=PATH …
        [--eval NAME=PATH …] [--adapter DIR] [--reward DIR] [--reference DIR] [--config FILE] [--set KEY=JSON …]

``arguments.json`` holds LLaMA-Factory's own arguments under ``arguments`` and what goes beside them. Where several
processes are wanted (NPROC_PER_NODE, NNODES, DeepSpeed), torchrun starts this file again, once for each.

Exit codes: 0 done, 1 the training failed (its reason is the last line), 143 ended by SIGTERM after a checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
import lf_stages
from lf_checkpoints import latest, start_over
from lf_data import prepare
from lf_finish import finish
from lf_report import Refused, explain, fail, progress, report
from lf_tensors import folder, must_fit
from lf_watch import Watch

TERMINATED = 128 + signal.SIGTERM


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", type=Path, help="the plan that the first process wrote")
    for name in ("arguments", "model", "out", "scratch", "adapter", "reward", "reference", "config"):
        parser.add_argument(f"--{name}", type=Path)
    for name in ("data", "eval", "set"):
        parser.add_argument(f"--{name}", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(argv)
    for name in ("model", "out", "scratch", "adapter", "reward", "reference", "config"):
        if place := getattr(options, name):
            setattr(options, name, place.absolute())
    try:
        if options.worker:
            work(options.worker)
            return
        path = plan(options)
        if processes() > 1:
            command = torchrun(path)
            print(" ".join(command[1:]), flush=True)
            os.execv(command[0], command)
        work(path)
    except Refused as error:
        fail(*explain(error))
    except Exception as error:
        traceback.print_exc()
        fail(*explain(error))


def processes() -> int:
    """How many processes train, on all machines together. DeepSpeed wants torchrun for one process too."""
    alone = 2 if os.environ.get("FORCE_TORCHRUN") else 1
    return max(alone, int(os.environ.get("NPROC_PER_NODE", "1")) * int(os.environ.get("NNODES", "1")))


def torchrun(path: Path) -> list[str]:
    """The command that starts every process of this machine."""
    env = os.environ
    where = ["--standalone"]
    if int(env.get("NNODES", "1")) > 1:
        where = [f"--node-rank={env['NODE_RANK']}", f"--master-addr={env['MASTER_ADDR']}"]
        where += [f"--master-port={env['MASTER_PORT']}"]
    count = [f"--nnodes={env.get('NNODES', '1')}", f"--nproc-per-node={env.get('NPROC_PER_NODE', '1')}"]
    return [sys.executable, "-m", "torch.distributed.run", *count, *where, __file__, "--worker", str(path)]


def plan(options: argparse.Namespace) -> Path:
    """Checks everything that can be checked without torch and writes down what is to be done."""
    told: dict[str, Any] = json.loads(options.arguments.read_text(encoding="utf-8"))
    arguments = dict(told["arguments"])
    stage = arguments["stage"]
    progress("check the data")
    data, held = (dict(map(_pair, given)) for given in (options.data, options.eval))
    rows = prepare(
        {name: Path(path) for name, path in (data | held).items()}, options.scratch / "data", stage
    )
    if options.adapter:
        must_fit(folder(options.adapter, "adapter_model*.safetensors"), folder(options.model), "the adapter")
        arguments["adapter_name_or_path"] = str(options.adapter)
    if options.config:
        arguments["deepspeed"] = read_json(options.config)
    for key, place in (("reward_model", options.reward), ("ref_model", options.reference)):
        if place:
            arguments[key] = str(place)
    # A relative folder: titles of plots and the trainer's state name it, and it will lie elsewhere.
    os.chdir(options.out.parent)
    out = Path(options.out.name)
    kind = (stage, arguments.get("finetuning_type", "lora"))
    found = latest(out, lf_stages.needed(*kind)) if lf_stages.goes_on(*kind) else start_over(out)
    cut_log(out / "trainer_log.jsonl", int(found.name.partition("-")[2]) if found else 0)
    arguments |= (
        {key: json.loads(value) for key, value in map(_pair, options.set)}
        | {
            "model_name_or_path": str(options.model),
            "output_dir": str(out),
            "dataset_dir": str(options.scratch / "data"),
            "dataset": ",".join(data),
            "do_train": True,
            "do_eval": bool(held) or bool(arguments.get("val_size")),
            "disable_tqdm": True,
            "include_num_input_tokens_seen": "non_padding",
            "logging_nan_inf_filter": False,  # else the mean of what came before hides the first loss that is no number
            "resume_from_checkpoint": str(found) if found else None,
            "offload_folder": str(options.scratch / "offload"),
            **({"eval_dataset": ",".join(held)} if held else {}),
        }
    )
    if found:
        if stage == "rm":  # adapter and head; the trainer restores the rest
            arguments["adapter_name_or_path"] = str(found)
        print(f"goes on from {found.name}", flush=True)
    path = options.scratch / "plan.json"
    done = told | {"arguments": arguments, "told": told["arguments"], "rows": rows, "out": str(options.out)}
    path.write_text(json.dumps(done, ensure_ascii=False, indent=1), encoding="utf-8")
    return Path(path)


def read_json(path: Path) -> dict[str, Any]:
    """The one JSON object of a file, or of the only file of a folder. Raises Refused."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if len(files) != 1:
        raise Refused(f"expected one JSON file for DeepSpeed, found {len(files)}")
    try:
        value = json.loads(files[0].read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise Refused(f"{files[0].name}:{error.lineno}:{error.colno}: {error.msg}") from None
    if not isinstance(value, dict):
        raise Refused(f"{files[0].name} should hold one JSON object")
    return value


def cut_log(path: Path, step: int) -> None:
    """Takes from the log of losses what an earlier attempt wrote after the step that this one goes on from."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the attempt was killed while it wrote
            continue
        if row.get("current_steps", 0) <= step:
            kept.append(line)
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def work(path: Path) -> None:
    """One process of the training."""
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    out = Path(told["out"])
    os.chdir(out.parent)
    watch = Watch(out)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone:  # several processes would stop at different steps, and wait for each other for ever
        signal.signal(signal.SIGTERM, lambda number, frame: _stop(watch))
    first = os.environ.get("RANK", "0") == "0"
    if first:
        progress("load the model")
    arguments = told["arguments"]
    lf_stages.prepare(arguments["stage"], bool(arguments["resume_from_checkpoint"]))
    tuner: Any = importlib.import_module("llamafactory.train.tuner")
    try:
        tuner.run_exp(dict(arguments), callbacks=[watch])
    except Exception as error:  # each library has a kind of its own for a full disk
        _keep_previous(error, out)
        raise
    if watch.stopped:
        fail("ended before the last step; the next attempt goes on from here", code=TERMINATED)
    if first:
        finish(out, told)
    elif not any(out.iterdir()):  # another machine's rank 0 holds the result; this one says that it took part
        (out / "took-part.json").write_text(json.dumps({"rank": int(os.environ["RANK"])}) + "\n")


def _stop(watch: Watch) -> None:
    if watch.stopping or not getattr(watch, "_since", 0):
        sys.exit(TERMINATED)  # nothing to save yet, or asked twice
    print("asked to end: a checkpoint follows", flush=True)
    watch.stop()


def _keep_previous(error: Exception, out: Path) -> None:
    """A checkpoint that found no room is taken away; what was saved before it is said."""
    message, hint = explain(error)
    if message != "the disk is full":
        return
    found = latest(out)
    said = f"{found.name} is whole and kept" if found else "there is no earlier one"
    report(error={"message": f"the disk is full: a checkpoint could not be written; {said}", "hint": hint})
    print(f"the disk is full: {said}", file=sys.stderr)
    traceback.print_exc()
    sys.exit(1)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


if __name__ == "__main__":
    main(sys.argv[1:])
