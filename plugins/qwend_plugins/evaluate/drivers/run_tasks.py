"""Run tasks of lm-evaluation-harness over one model. Runs inside the image and imports nothing of qwend.

    python run_tasks.py --name merged --model DIR --task local --data DIR --limit 100 --out DIR

The task `local` is made of a data set: rows with `question`, `choices` (a list) and `answer` (an index or a letter) are
scored by likelihood; rows with `question` and `answer` (text) by what the model writes. A folder that holds YAML files
is a folder of task files, whose tasks are named by `--task`. With tasks of the harness's own it is a folder of data
sets as a hub keeps them (`openai/gsm8k/…`): a definition's `dataset_path` is looked for there first.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from ev_common import EvalError, metric, progress, report, run
from ev_table import table

LOCAL = "local"


def questions(place: Path) -> list[dict[str, Any]]:
    """The rows of a data set, checked: all with choices, or all without. Raises EvalError with the place."""
    files = [place] if place.is_file() else sorted(place.rglob("*.jsonl"))
    if not files:
        raise EvalError("data holds no questions", "JSON lines with question, choices and answer")
    rows = []
    for number, line in enumerate(files[0].read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            rows.append(_question(line, f"{files[0].name}:{number}"))
    if not rows:
        raise EvalError(f"{files[0].name} holds no questions")
    if len({"choices" in row for row in rows}) > 1:
        raise EvalError(
            f"{files[0].name}: some questions have choices and some have none", "make two steps of them"
        )
    return rows


def _question(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise EvalError(f"{place}: no JSON: {error}") from None
    text = row.get("question", row.get("prompt")) if isinstance(row, dict) else None
    if not isinstance(text, str) or "answer" not in row:
        raise EvalError(f"{place}: a row needs question and answer")
    answer, choices = row["answer"], row.get("choices")
    if choices is None:
        return {"question": text, "answer": str(answer)}
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) for choice in choices)
    ):
        raise EvalError(f"{place}: choices should be a list of two texts or more")
    if isinstance(answer, str) and re.fullmatch(r"[A-Za-z]", answer):
        answer = ord(answer.upper()) - ord("A")
    elif isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise EvalError(f"{place}: answer should be the index, the letter or the text of a choice")
    return {"question": text, "choices": choices, "answer": answer}


def write_task(rows: list[dict[str, Any]], folder: Path, most: int) -> None:
    """The task file of `rows`, and their data beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    task: dict[str, Any] = {
        "task": LOCAL,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "metadata": {"version": 1},
    }
    if "choices" in rows[0]:
        names = ["acc", "acc_norm"]
        task |= {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "answer"}
    else:
        names = ["exact_match"]
        task |= {
            "output_type": "generate_until",
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": most, "do_sample": False},
            "filter_list": [
                {"name": "text", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
            ],
        }
    task["metric_list"] = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names
    ]
    (folder / "local.yaml").write_text(
        json.dumps(task, ensure_ascii=False, indent=1), encoding="utf-8"
    )  # YAML too


def model_words(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The harness's kind of model, and its arguments."""
    if args.base_url:
        words = {"model": served(args.base_url), "base_url": args.base_url, "tokenizer": str(args.model)}
        return "local-completions", words | {"num_concurrent": 1, "tokenized_requests": False}
    dtype = "float32" if args.dtype == "auto" and args.device == "cpu" else args.dtype
    said: dict[str, Any] = {"pretrained": str(args.model), "dtype": dtype}
    files = sorted(args.model.rglob("*.gguf")) if args.model.is_dir() else [args.model]
    if files and files[0].suffix == ".gguf":
        if len(files) > 1:
            raise EvalError(f"{args.name} is split into {len(files)} files", "merge them: llama-cpp/merge")
        said |= {"pretrained": str(files[0].parent), "gguf_file": files[0].name}
    return "hf", said | {"trust_remote_code": args.trust_remote_code}


def served(url: str) -> str:
    """The name by which a server knows its model. Raises EvalError."""
    place = f"{url.removesuffix('/completions')}/models"
    try:
        with urllib.request.urlopen(place, timeout=60) as answer:
            name = json.load(answer)["data"][0]["id"]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise EvalError(
            f"{place} tells no model: {error}", "base_url is the URL of a running server's /v1/completions"
        ) from None
    return str(name)


def laid_out(data: Path, tasks: list[str]) -> bool:
    """Whether a folder holds data sets as a hub keeps them, for tasks of the harness's own."""
    if not data.is_dir() or LOCAL in tasks:
        return False
    if any(path.is_dir() for path in data.glob("*/*")):
        return True
    raise EvalError(
        f"data holds no data sets for {', '.join(tasks)}",
        "lay them out as on the hub (data/openai/gsm8k/…), or leave data out to fetch them",
    )


def work(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    folder = None
    if args.data is not None and args.data.is_dir() and any(args.data.glob("*.y*ml")):
        folder = args.data
        os.chdir(folder)  # where task files look for their data
    elif args.data is not None and laid_out(args.data, args.task):
        os.chdir(args.data)
    elif args.data is not None:
        folder = args.out / "task"
        write_task(questions(args.data), folder, args.max_gen_toks)
    progress("load", 0, 1, "models")
    found = evaluated(args, folder)
    rows = sorted(scores(found["results"]))
    if not rows:
        raise EvalError("the tasks gave no figures", "their log says why")
    for name, value in rows:
        metric(args.name, name, value, args.name)
    told = {"measure": ["tasks"], "settings": settings(args), "text": {}, "models": [
        {"name": args.name, "metrics": dict(rows), "speed": [], "answers": []}
    ]}  # fmt: skip
    told["versions"] = found.get("versions", {})
    told["questions"] = {name: counts.get("effective") for name, counts in found.get("n-samples", {}).items()}
    (args.out / "report.json").write_text(
        json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    lines = table([["figure", "value"], *([name, f"{value:.4f}"] for name, value in rows)])
    (args.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)
    report(fact={"extra": {"measure": ["tasks"]}})


def evaluated(args: argparse.Namespace, folder: Path | None) -> dict[str, Any]:
    """What the harness found."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    if args.threads:
        torch.set_num_threads(args.threads)
    manager = TaskManager(include_path=str(folder) if folder else None)
    unknown = [task for task in args.task if task not in manager.all_tasks]
    if unknown:
        raise EvalError(
            f"there is no task {unknown[0]}", "lm_eval ls tasks lists them; local is for your own data"
        )
    kind, words = model_words(args)
    try:
        found = simple_evaluate(
            model=kind,
            model_args=words,
            tasks=list(args.task),
            num_fewshot=args.num_fewshot,
            batch_size=args.batch_size,
            device=args.device if kind == "hf" else None,
            limit=args.limit,
            task_manager=manager,
            apply_chat_template=args.apply_chat_template,
            gen_kwargs=f"max_gen_toks={args.max_gen_toks}",
            log_samples=False,
            bootstrap_iters=1000,
        )
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise EvalError(f"{args.name}: {re.sub(r'[ ]+', ' ', str(error).splitlines()[0])[:300]}") from error
    return dict(found or {"results": {}})


def scores(results: dict[str, dict[str, Any]]) -> list[tuple[str, float]]:
    """`mmlu_acc` and `gsm8k_exact_match_strict_match` from the harness's `acc,none` and `exact_match,strict-match`."""
    found = []
    for task, figures in results.items():
        for name, value in figures.items():
            what, _, how = name.partition(",")
            if (
                not how
                or isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not math.isfinite(value)
            ):
                continue
            words = [task, what, *([] if how in ("none", "text") else [how])]
            found.append((re.sub(r"\W", "_", "_".join(words)), float(value)))
    return found


def settings(args: argparse.Namespace) -> dict[str, Any]:
    kept = (
        "task",
        "limit",
        "num_fewshot",
        "batch_size",
        "apply_chat_template",
        "max_gen_toks",
        "dtype",
        "device",
    )
    return {name: getattr(args, name) for name in kept}


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tasks", description="Run benchmark tasks over a model.")
    add = parser.add_argument
    add("--name", required=True, help="what the model is called")
    add("--model", type=Path, required=True)
    add("--task", action="append", required=True)
    add("--data", type=Path)
    add("--limit", type=int)
    add("--num-fewshot", type=int)
    add("--batch-size", type=int, default=1)
    add("--max-gen-toks", type=int, default=256)
    add("--apply-chat-template", action="store_true")
    add("--base-url")
    add("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    add("--threads", type=int)
    add("--trust-remote-code", action="store_true")
    add("--out", type=Path, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run("tasks", lambda: work(parsed(sys.argv[1:])))
