"""Measuring for real on the smoke model: formats that agree, gates that hold a service back, a choice, a report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Qwend

from qwend_plugins.evaluate.tasks import DATA

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.engine("evaluate", "calibration", images=["llama-cpp", "datasets", "lm-eval"]),
]

GATED = """\
version: 1
name: gated
models: {base: hf:Qwen/Qwen2.5-0.5B-Instruct}
datasets: {wiki: "hf:Salesforce/wikitext?subset=wikitext-2-raw-v1&split=test"}
steps:
  f16: {uses: llama-cpp/convert, from: base, with: {outtype: f16}}
  quant: {uses: llama-cpp/quantize, from: f16, with: {type: Q8_0}}
  quality:
    uses: evaluate/compare
    from: [f16, quant]
    with: {text: wiki, context: 128, chunks: 3, measure: [perplexity, kl_divergence], threads: 1}
    expect: ["quant.mean_kld <= 0.05", "quant.perplexity <= 2 * f16.perplexity"]
  best: {uses: evaluate/select, from: quality, with: {smallest_where: mean_kld <= 0.05}}
  chat: {uses: llama-cpp/serve, from: best, with: {context: 512}}
"""

FORMATS = """\
version: 1
name: formats
models: {base: hf:Qwen/Qwen2.5-0.5B-Instruct}
datasets: {wiki: "hf:Salesforce/wikitext?subset=wikitext-2-raw-v1&split=test"}
steps:
  f32: {uses: llama-cpp/convert, from: base, with: {outtype: f32}}
  by_transformers:
    uses: evaluate/perplexity
    from: base
    with: {text: wiki, context: 128, chunks: 4, save_logits: true, threads: 1}
  by_llama_cpp: {uses: evaluate/perplexity, from: f32, with: {text: wiki, context: 128, chunks: 4, threads: 1}}
  together:
    uses: evaluate/compare
    from: [by_transformers, by_llama_cpp]
    expect: ["f32.perplexity <= 1.001 * base.perplexity", "f32.perplexity >= 0.999 * base.perplexity"]
  apart:
    uses: evaluate/kl-divergence
    from: f32
    with: {reference: by_transformers, context: 128, threads: 1}
    expect: [mean_kld <= 0.0001, same_top >= 0.999]
  before: {uses: evaluate/golden, from: base, with: {max_tokens: 4, threads: 1}}
  after:
    uses: evaluate/golden
    from: f32
    with: {reference: before, max_tokens: 4, threads: 1}
    expect: [golden_prompts_same == 1, golden_same == 1]
"""

QUESTIONS = [
    {"question": "What is 2 + 2?", "choices": ["3", "4", "5"], "answer": "B"},
    {"question": "Which is a colour?", "choices": ["blue", "seven"], "answer": 0},
    {"question": "天空是什么颜色？", "choices": ["蓝色", "方形"], "answer": "蓝色"},
]


def write(qwend: Qwend, text: str) -> str:
    path = qwend.folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_a_gate_that_fails_leaves_the_old_service_running_and_tells_the_figures(qwend: Qwend) -> None:
    recipe = write(qwend, GATED)
    qwend("up", "-d", "--smoke", recipe)
    before = qwend.row("chat")
    assert before["state"] == "ready"
    chosen = qwend.json("inspect", "best")["artifact"]
    assert chosen["digest"] == qwend.json("inspect", "quant")["artifact"]["digest"]

    worse = ("--set", "steps.quant.with.type=Q2_K")
    ended = qwend.try_("up", "-d", "--smoke", recipe, *worse)
    assert ended.returncode == 4, ended.stderr
    assert "quality: quant.mean_kld <= 0.05: 0." in ended.stderr
    after = qwend.row("chat")
    assert [after[key] for key in ("state", "pid", "generation")] == [
        before[key] for key in ("state", "pid", "generation")
    ]
    os.kill(before["pid"], 0)

    # Once more: the figures are kept, nothing is measured again, and the gate still holds the service back.
    measured = qwend.json("inspect", "quality")["artifact"]["created"]
    again = qwend.try_("up", "-d", "--smoke", recipe, *worse)
    assert again.returncode == 4
    assert qwend.json("inspect", "quality")["artifact"]["created"] == measured

    # A gate that is looser by hand is no change of anything that was made: the service is replaced.
    loose = (
        "--set",
        "steps.quality.expect=[quant.mean_kld <= 100]",
        "--set",
        "steps.best.with.smallest_where=mean_kld <= 100",
    )
    qwend("up", "-d", "--smoke", recipe, *worse, *loose)
    replaced = qwend.row("chat")
    assert (replaced["state"], replaced["generation"]) == ("ready", before["generation"] + 1)

    report = qwend.folder / "report.html"
    assert qwend("report", "gated", "-o", str(report)).strip() == str(report)
    text = report.read_text()
    assert "Mean KL divergence" in text
    assert "quant.mean_kld &lt;= 100" in text


def test_a_gate_on_a_figure_that_nothing_reports_is_an_error_of_the_plan(qwend: Qwend) -> None:
    ended = qwend.try_(
        "plan", "--smoke", write(qwend, GATED.replace("quant.mean_kld <=", "quant.mean_kdl <="))
    )
    assert ended.returncode == 2
    assert 'quant will have no figure "mean_kdl"; did you mean mean_kld?' in ended.stderr
    assert "recipe.yaml:12:14" in ended.stderr


def test_a_text_that_is_too_short_fails_with_both_counts(qwend: Qwend) -> None:
    (qwend.folder / "short.txt").write_text("One sentence is not much.\n")
    source = '{from: "hf:a/b", smoke: "file:short.txt"}'
    text = GATED.replace('"hf:Salesforce/wikitext?subset=wikitext-2-raw-v1&split=test"', source)
    ended = qwend.try_("up", "-d", "--smoke", write(qwend, text), "quality")
    assert ended.returncode == 1
    assert "the text has 6 tokens; a context of 128 needs 256" in ended.stderr


def test_formats_are_measured_on_the_same_windows_and_agree(qwend: Qwend) -> None:
    qwend("up", "--smoke", write(qwend, FORMATS))
    figures = qwend.json("inspect", "together")["artifact"]["metrics"]
    assert abs(figures["f32.perplexity"] / figures["base.perplexity"] - 1) < 0.001
    table = Path(qwend.json("inspect", "together")["artifact"]["location"]) / "report.json"
    tokens = {model["tokens_sha256"] for model in json.loads(table.read_text())["models"]}
    assert len(tokens) == 1


def test_a_sample_of_a_table_is_drawn_once_and_kept_with_the_rows_that_it_holds(qwend: Qwend) -> None:
    rows = [
        f"Row {index} tells of a bridge, a river and the town of number {index * 7}." for index in range(100)
    ]
    (qwend.folder / "rows.csv").write_text(
        "id,said\n" + "".join(f'{n},"{row}"\n' for n, row in enumerate(rows))
    )
    text = """\
version: 1
name: rows
models: {base: "smoke:qwen2?format=gguf"}
datasets: {words: {from: "file:rows.csv", column: said, sample: 40, seed: 7}}
steps:
  ppl:
    uses: evaluate/perplexity
    from: base
    with: {text: words, context: 64, chunks: 2, threads: 1}
    expect: [perplexity > 1]
"""
    recipe = write(qwend, text)
    qwend("up", recipe)
    words = qwend.json("inspect", "words")["artifact"]
    told = words["facts"]["extra"]
    kept = [
        json.loads(line)["text"] for line in (Path(words["location"]) / "data.jsonl").read_text().splitlines()
    ]
    assert kept == [rows[index] for index in told["row_ids"]]
    assert (len(set(told["row_ids"])), told["source_rows"], told["seed"]) == (40, 100, 7)
    assert "nothing to do" in qwend("up", recipe)


@pytest.mark.slow
def test_tasks_are_scored_with_local_questions_and_without_network(qwend: Qwend) -> None:
    (qwend.folder / "questions.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    )
    text = """\
version: 1
name: tasks
models: {base: hf:Qwen/Qwen2.5-0.5B-Instruct}
datasets: {questions: {from: "file:questions.jsonl", smoke: "file:questions.jsonl"}}
steps:
  score: {uses: evaluate/tasks, from: base, with: {data: questions, threads: 1}, expect: [local_acc >= 0]}
"""
    qwend("up", "--smoke", write(qwend, text))
    figures = qwend.json("inspect", "score")["artifact"]["metrics"]
    assert figures["local_acc"] in (0, 1 / 3, 2 / 3, 1)


def lay(place: Path, config: str, *splits: str, rows: list[dict[str, Any]]) -> None:
    """A data set as the hub keeps it: a README that names its configurations, and a file for each split."""
    place.mkdir(parents=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    files = ""
    for split in splits:
        (place / f"{split}.jsonl").write_text(text, encoding="utf-8")
        files += f"  - {{split: {split}, path: {split}.jsonl}}\n"
    (place / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")


@pytest.mark.slow
def test_the_harness_own_tasks_run_offline_over_data_sets_that_are_there(qwend: Qwend) -> None:
    """The definitions are those of the harness's package: they read their questions where the plan says they do."""
    hub, four = qwend.folder / "questions", ["one", "two", "three", "four"]
    lettered = dict(zip("ABCD", four, strict=True))
    lay(hub / DATA["mmlu"], "abstract_algebra", "dev", "test",
        rows=[{"question": "Two and one?", "choices": four, "answer": 2}])  # fmt: skip
    lay(hub / DATA["ceval-valid"], "accountant", "dev", "val",
        rows=[{"question": "哪个是三？", **lettered, "answer": "C"}])  # fmt: skip
    lay(hub / DATA["cmmlu"], "agronomy", "dev", "test",
        rows=[{"Question": "哪个是三？", **lettered, "Answer": "C"}])  # fmt: skip
    lay(hub / DATA["gsm8k"], "main", "train", "test", rows=[{"question": "Two and one?", "answer": "#### 3"}])
    text = """\
version: 1
name: harness
models: {base: "smoke:qwen2"}
datasets: {questions: {from: "file:questions", type: dataset/prompts}}
steps:
  score:
    uses: evaluate/tasks
    from: base
    with:
      tasks: [mmlu_abstract_algebra, ceval-valid_accountant, cmmlu_agronomy, gsm8k]
      data: questions
      num_fewshot: 0
      max_gen_toks: 4
      threads: 1
"""
    qwend("up", write(qwend, text))
    figures = qwend.json("inspect", "score")["artifact"]["metrics"]
    for name in ("mmlu_abstract_algebra_acc", "ceval_valid_accountant_acc", "cmmlu_agronomy_acc_norm"):
        assert figures[name] in (0, 1)
    assert figures["gsm8k_exact_match_strict_match"] == 0, "an untrained model does no sums"
