"""The parts of evaluate's drivers that need no model: texts, windows, tables, choices, what llama.cpp's tools print."""

from __future__ import annotations

import json
import math
import stat
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import choose
import pytest
import run_tasks
import tabulate_reports
from ev_common import (
    EvalError,
    Settings,
    check_base,
    first_difference,
    metric,
    read_logits_head,
    read_text,
    window_count,
)
from ev_golden import differences, read_prompts
from ev_llama import Gguf
from ev_talk import speed_figures

FINAL = "Final estimate: PPL = 10.5000 +/- 0.12000\n"
DIVERGED = """Mean PPL(Q)                   :  11.000000 ±   0.200000
Mean PPL(Q)/PPL(base)         :   1.010000 ±   0.001000
Mean    KLD:   0.020000 ±   0.001000
Maximum KLD:   0.500000
99.0%   KLD:   0.100000
Median  KLD:   0.010000
RMS Δp    :  3.000 ± 0.100 %
Same top p: 95.000 ± 1.000 %
"""


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """The lines of the report."""
    path = tmp_path / "report.jsonl"
    monkeypatch.setenv("QWEND_REPORT", str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def folder(place: Path, **files: str | bytes) -> Path:
    place.mkdir(exist_ok=True)
    for name, content in files.items():
        path = place / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return place


def test_the_text_of_a_data_set_is_its_file_or_its_rows(tmp_path: Path) -> None:
    assert read_text(folder(tmp_path / "a", data__txt="one\n\n", data__jsonl="{}\n")) == "one\n"
    assert read_text(folder(tmp_path / "b", wiki__raw="two", README__json="{}")) == "two"
    assert read_text(folder(tmp_path / "c", data__jsonl='{"text": "x"}\n{"text": "y"}\n')) == "x\n\ny"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.txt", b"ARROW1\0\0rows", "data.txt is an Arrow file, not text"),
        ("data.txt", b"PAR1rows", "data.txt is a Parquet file, not text"),
        ("data.txt", b"a\0b", "data.txt is a binary file, not text"),
        ("data.txt", "é".encode("latin-1"), "data.txt is not UTF-8: byte 0"),
        ("data.txt", b" \n", "the text to measure on is empty"),
        ("rows.parquet", b"PAR1rows", "rows.parquet is a Parquet file, not text"),
        ("data.jsonl", b'{"prompt": "x"}', "data.jsonl: a row has no text"),
    ],
)
def test_what_is_no_text_is_never_measured(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EvalError) as caught:
        read_text(tmp_path)
    assert str(caught.value) == said


def test_a_text_has_to_hold_two_windows() -> None:
    assert window_count(1024, 512, None) == 2
    assert window_count(5000, 512, 3) == 3
    assert window_count(5000, 512, 30) == 9
    with pytest.raises(EvalError, match="the text has 1,023 tokens; a context of 512 needs 1,024"):
        window_count(1023, 512, None)


def test_a_figure_that_is_no_number_fails_the_step(rows: Callable[[], list[dict[str, Any]]]) -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(EvalError, match="the weights are broken"):
            metric("q4", "perplexity", value)
    metric("q4", "perplexity", 3.0, "q4")
    assert rows() == [
        {"metric": {"name": "perplexity", "value": 3.0, "of": "q4"}},
        {"metric": {"name": "perplexity", "value": 3.0}},
    ]


def test_a_file_of_logits_is_known_by_its_head(tmp_path: Path) -> None:
    path = tmp_path / "logits.bin"
    path.write_bytes(b"_logits_" + b"".join(n.to_bytes(4, "little") for n in (2, 9, 2, 5, 6, 7, 8)))
    with path.open("rb") as file:
        head = read_logits_head(file, "x")
    assert (head.context, head.vocabulary, head.tokens, head.windows) == (2, 9, (5, 6, 7, 8), 2)
    path.write_bytes(path.read_bytes()[:-1])
    for content, said in ((path.read_bytes(), "is cut short"), (b"GGUF", "holds no logits")):
        path.write_bytes(content)
        with path.open("rb") as file, pytest.raises(EvalError, match=said):
            read_logits_head(file, "x")
    with pytest.raises(EvalError, match="was measured with a context of 2, not 512"):
        check_base(head, 512)
    with pytest.raises(EvalError, match="100 are the least"):
        check_base(head, 2)


class Tool:
    """A stand-in for llama.cpp's tools that prints what a test says: a lost line cannot be had from the real one at
    will. It tells how often it was started."""

    def __init__(self, place: Path, *said: str) -> None:
        self.place, self.count = place, place / "count"
        for name in ("llama-perplexity", "llama-tokenize"):
            path = place / name
            path.write_text(
                f"#!/bin/sh\nif [ {name} = llama-tokenize ]; then cat >/dev/null; cat {place}/tokens; exit 0; fi\n"
                f"n=$(cat {self.count} 2>/dev/null || echo 0); echo $((n + 1)) >{self.count}\n"
                f'cat {place}/said.$n; exit "$(cat {place}/code)"\n'
            )
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        for index, text in enumerate(said):
            (place / f"said.{index}").write_text(text)
        (place / "tokens").write_text(str(list(range(64))) + "\n")
        (place / "code").write_text("0")
        (place / "model.gguf").write_text("GGUF")
        (place / "text").write_text("text\n")

    def model(self) -> Gguf:
        return Gguf(self.place, "q4", self.place / "model.gguf", Settings(context=16))

    @property
    def starts(self) -> int:
        return int(self.count.read_text())


def test_a_lost_result_is_asked_for_once_more(
    tmp_path: Path, rows: Callable[[], list[dict[str, Any]]]
) -> None:
    tool = Tool(tmp_path, "[1]9.1,[2]9.9,", f"[1]9.1,[4]10.5,\n{FINAL}")
    found = tool.model().perplexity(tmp_path / "text")
    assert (found.figures, found.windows) == ({"perplexity": 10.5, "perplexity_error": 0.12}, 4)
    assert tool.starts == 2
    assert rows()[-1] == {"progress": {"phase": "q4", "done": 4, "total": 4, "unit": "windows"}}


def test_a_result_that_is_lost_twice_fails(tmp_path: Path) -> None:
    tool = Tool(tmp_path, "", "")
    with pytest.raises(EvalError, match="llama-perplexity gave no result, twice; it ended with 0"):
        tool.model().perplexity(tmp_path / "text")
    assert tool.starts == 2


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (
            "error loading model vocabulary: unknown pre-tokenizer type: 'qwen9'",
            "does not know the tokenizer qwen9",
        ),
        ("unknown model architecture: 'qwen9'", "does not know the architecture qwen9"),
        ("tensor 'a' data is not within the file bounds, model is corrupted", "broken or cut short"),
        ("ggml: failed to allocate buffer", "there was not enough memory"),
    ],
)
def test_what_is_known_to_be_wrong_is_not_tried_again(said: str, meant: str, tmp_path: Path) -> None:
    tool = Tool(tmp_path, said)
    (tmp_path / "code").write_text("1")
    with pytest.raises(EvalError, match=meant):
        tool.model().perplexity(tmp_path / "text")
    assert tool.starts == 1


def test_a_perplexity_that_is_no_number_is_not_tried_again(tmp_path: Path) -> None:
    tool = Tool(tmp_path, "[1]nan,[4]nan,\nUnexpected negative standard deviation of log(prob)\n")
    figures = tool.model().perplexity(tmp_path / "text").figures
    assert math.isnan(figures["perplexity"])  # which `metric` refuses
    assert tool.starts == 1


def test_a_model_to_which_all_tokens_are_equally_likely_has_a_perplexity_without_an_error(
    tmp_path: Path,
) -> None:
    tool = Tool(tmp_path, "[1]9.0,[4]9.0000,\nUnexpected negative standard deviation of log(prob)\n")
    assert tool.model().perplexity(tmp_path / "text").figures == {"perplexity": 9.0, "perplexity_error": 0.0}


def test_a_short_text_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    tool = Tool(tmp_path)
    (tmp_path / "tokens").write_text(str(list(range(31))) + "\n")
    with pytest.raises(EvalError, match="the text has 31 tokens"):
        tool.model().perplexity(tmp_path / "text")
    assert not tool.count.exists()


def test_the_figures_of_a_divergence_are_read_and_percent_become_shares(tmp_path: Path) -> None:
    head = b"_logits_" + b"".join(n.to_bytes(4, "little") for n in (16, 9, 20, *range(320)))
    (tmp_path / "logits.bin").write_bytes(head)
    found = Tool(tmp_path, DIVERGED).model().divergence(tmp_path / "logits.bin")
    assert found.windows == 20
    assert found.figures == {
        "perplexity": 11, "perplexity_error": 0.2, "perplexity_ratio": 1.01, "mean_kld": 0.02, "mean_kld_error": 0.001,
        "median_kld": 0.01, "p99_kld": 0.1, "max_kld": 0.5, "same_top": 0.95, "rms_dp": 0.03,
    }  # fmt: skip


def test_answers_are_held_to_those_before_token_by_token(capsys: pytest.CaptureFixture[str]) -> None:
    before = [{"prompt": p, "tokens": [1, 2], "answer": [7, 8, 9], "text": "abc"} for p in ("x", "y", "z")]
    after = [
        {"prompt": "x", "tokens": [1, 2], "answer": [7, 8, 9], "text": "abc"},
        {"prompt": "y", "tokens": [1, 2], "answer": [7, 5, 9], "text": "aXc"},
        {"prompt": "z", "tokens": [1, 3, 2], "answer": [], "text": ""},
    ]
    assert differences("q4", before, after) == {
        "golden_same": 1 / 3, "golden_prompts_same": 2 / 3, "golden_tokens": (3 + 1 + 0) / 3,
    }  # fmt: skip
    told = capsys.readouterr().out
    assert "q4: prompt 1: token 1 differs: 'abc' → 'aXc'" in told
    assert "q4: prompt 2: the template gives another token 1" in told
    with pytest.raises(EvalError, match="was asked other prompts"):
        differences("q4", before, after[:2])


def test_the_first_difference_counts_a_missing_end() -> None:
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2], [1, 3]) == 1
    assert first_difference([1, 2], [1]) == 1


def test_prompts_are_texts_or_conversations_up_to_where_the_model_speaks(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path.write_text(json.dumps({"prompt": "x"}) + "\n" + json.dumps({"messages": talk}) + '\n"y"\n')
    assert read_prompts(path) == ["x", talk[:1], "y"]
    path.write_text('{"text": "x"}\n')
    with pytest.raises(EvalError, match=r"p\.jsonl:1: a row has no prompt"):
        read_prompts(path)


def test_speed_is_told_at_the_shortest_and_the_longest_prompt_and_for_each_line() -> None:
    lines = [
        {"input_length": length, "batch": batch, "prompt_speed": length, "generation_speed": 10 * batch - length / 100,
         "time_to_first_token": length / 10, "peak_memory": length + batch}
        for length in (1, 100) for batch in (1, 4)
    ]  # fmt: skip
    found = speed_figures(lines)
    assert found["generation_speed"] == 10 - 0.01
    assert (found["prompt_speed"], found["time_to_first_token"], found["peak_memory"]) == (100, 10, 104)
    assert found["generation_speed_at_100x4"] == 39
    assert found["generation_speed_at_100"] == 9


def report(place: Path, *models: tuple[str, dict[str, float], str]) -> Path:
    place.mkdir(parents=True)
    told = [
        {"name": name, "metrics": figures, "speed": [], "answers": [], "tokens_sha256": tokens, "windows": 2}
        for name, figures, tokens in models
    ]
    data = {"measure": ["perplexity"], "settings": {"context": 512}, "text": {}, "models": told}
    (place / "report.json").write_text(json.dumps(data))
    return place


def test_reports_stand_side_by_side_and_what_two_say_of_one_model_is_one_line(
    tmp_path: Path, rows: Callable[[], list[dict[str, Any]]]
) -> None:
    one = report(tmp_path / "a", ("hf", {"perplexity": 9.0}, "t"))
    two = report(tmp_path / "b", ("gguf", {"perplexity": 9.1}, "t"), ("hf", {"size": 5.0}, ""))
    tabulate_reports.work(
        tabulate_reports.parsed(
            ["--report", f"a={one}", "--report", f"b={two}", "--out", str(tmp_path / "o")]
        )
    )
    table = (tmp_path / "o" / "report.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:4]] == ["hf", "gguf"]
    figures = {row["metric"]["of"] + "." + row["metric"]["name"] for row in rows() if "metric" in row}
    assert figures == {"hf.perplexity", "hf.size", "gguf.perplexity"}


def test_perplexities_of_different_tokens_are_not_compared(tmp_path: Path) -> None:
    one = report(tmp_path / "a", ("hf", {"perplexity": 9.0}, "t"))
    two = report(tmp_path / "b", ("gguf", {"perplexity": 9.1}, "u"))
    args = tabulate_reports.parsed(
        ["--report", f"a={one}", "--report", f"b={two}", "--out", str(tmp_path / "o")]
    )
    with pytest.raises(EvalError, match="hf and gguf were measured on different tokens"):
        tabulate_reports.work(args)


@pytest.mark.parametrize(
    ("by", "where", "chosen"),
    [
        ("size", ["mean_kld<=0.05"], "q5"),
        ("size", ["mean_kld<=1"], "q4"),
        ("speed", ["mean_kld<=1"], "q4"),
        ("speed", ["mean_kld<=0.01"], "q8"),
        ("size", [], "q4"),
    ],
)
def test_the_smallest_or_fastest_of_the_good_enough_is_chosen(
    by: str, where: list[str], chosen: str, tmp_path: Path, rows: Callable[[], list[dict[str, Any]]]
) -> None:
    place = report(
        tmp_path / "a",
        ("f16", {"size": 16.0, "generation_speed": 1.0}, ""),
        ("q8", {"size": 8.0, "generation_speed": 2.0, "mean_kld": 0.001}, ""),
        ("q5", {"size": 5.0, "generation_speed": 3.0, "mean_kld": 0.02}, ""),
        ("q4", {"size": 4.0, "generation_speed": 4.0, "mean_kld": 0.2}, ""),
    )
    argv = ["--report", str(place), "--by", by]
    for bound in where:
        argv += ["--where", bound]
    for name in ("f16", "q8", "q5", "q4"):
        argv += ["--model", f"{name}=/x"]
    choose.work(choose.parsed(argv))
    told = rows()
    assert told[0] == {"select": chosen}
    assert {"metric": {"name": "size", "value": {"q4": 4.0, "q5": 5.0, "q8": 8.0}[chosen]}} in told, (
        "gates may speak of the chosen one"
    )


def test_where_no_model_is_good_enough_all_figures_are_told(tmp_path: Path) -> None:
    place = report(tmp_path / "a", ("q8", {"size": 8.0, "mean_kld": 0.125}, ""), ("f16", {"size": 9.0}, ""))
    argv = [
        "--report",
        str(place),
        "--by",
        "size",
        "--where",
        "mean_kld<=0.1",
        "--model",
        "q8=/x",
        "--model",
        "f16=/y",
    ]
    with pytest.raises(
        EvalError, match=r"no model has mean_kld<=0\.1: q8 mean_kld 0\.125, f16 mean_kld unknown"
    ):
        choose.work(choose.parsed(argv))


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ('{"question": "q", "choices": ["a", "b"], "answer": "B"}', 1),
        ('{"question": "q", "choices": ["a", "b"], "answer": 0}', 0),
        ('{"question": "q", "choices": ["yes", "no"], "answer": "no"}', 1),
        ('{"prompt": "q", "answer": 42}', "42"),
    ],
)
def test_a_question_names_its_answer_by_index_letter_or_text(
    line: str, question: Any, tmp_path: Path
) -> None:
    (tmp_path / "q.jsonl").write_text(line + "\n")
    (row,) = run_tasks.questions(tmp_path / "q.jsonl")
    assert row["answer"] == question


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"question": "q"}', "q.jsonl:1: a row needs question and answer"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "C"}', "answer should be the index"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "a list of two texts or more"),
        (
            '{"question": "q", "answer": "x"}\n{"question": "q", "choices": ["a", "b"], "answer": 0}',
            "some have none",
        ),
        ("", "q.jsonl holds no questions"),
        ("{", "q.jsonl:1: no JSON"),
    ],
)
def test_what_is_wrong_with_questions_is_told_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(EvalError) as caught:
        run_tasks.questions(tmp_path / "q.jsonl")
    assert said in str(caught.value)


def test_the_harness_names_become_names_of_figures() -> None:
    results = {
        "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": "N/A"}
    }
    assert run_tasks.scores(results) == [("gsm8k_exact_match_strict_match", 0.5)]
    assert run_tasks.scores({"local": {"acc,none": 1, "acc_norm,none": math.nan}}) == [("local_acc", 1.0)]


def test_tasks_of_the_harness_take_their_data_from_a_folder_laid_out_as_a_hub(tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    assert not run_tasks.laid_out(tmp_path, ["local"])
    with pytest.raises(EvalError, match="data holds no data sets for gsm8k"):
        run_tasks.laid_out(tmp_path, ["gsm8k"])
    (tmp_path / "openai" / "gsm8k").mkdir(parents=True)
    assert run_tasks.laid_out(tmp_path, ["gsm8k"])


def test_a_served_model_is_asked_by_the_name_that_its_server_knows() -> None:
    class Models(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"data": [{"id": "chat"}]}' if self.path == "/v1/models" else b"{}"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    with HTTPServer(("127.0.0.1", 0), Models) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            assert run_tasks.served(f"{url}/v1/completions") == "chat"
            with pytest.raises(EvalError, match="tells no model"):
                run_tasks.served(f"{url}/completions")
        finally:
            server.shutdown()
            thread.join()


def test_a_gguf_in_parts_is_merged_before_tasks_read_it(tmp_path: Path) -> None:
    for part in (1, 2):
        (tmp_path / f"m-0000{part}-of-00002.gguf").touch()
    args = run_tasks.parsed(["--name", "m", "--model", str(tmp_path), "--task", "local", "--out", "o"])
    with pytest.raises(EvalError, match="m is split into 2 files"):
        run_tasks.model_words(args)
