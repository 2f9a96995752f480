"""The drivers of llama.cpp's tools, with programs that print what the tools print."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVERS = Path(__file__).parents[3] / "plugins/qwend_plugins/llama_cpp/drivers"


def run(tmp_path: Path, name: str, *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, rows of the report and log of a driver."""
    report = tmp_path / "report.jsonl"
    ended = subprocess.run(
        [sys.executable, str(DRIVERS / name), *map(str, arguments)],
        env={"QWEND_REPORT": str(report), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    return ended.returncode, rows, ended.stderr


def tool(tmp_path: Path, body: str) -> Path:
    """A program of the shell."""
    path = tmp_path / "tool"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def measure(tmp_path: Path, what: str, body: str, *models: str) -> tuple[int, list[dict[str, Any]], str]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    text = tmp_path / "text"
    if not text.exists():
        text.mkdir()
        (text / "data.txt").write_text("words " * 100)
    named = [word for model in models or ("f16",) for word in ("--model", f"{model}={model}.gguf")]
    where = ("--tool", tool(tmp_path, body), "--text", text, "--out", out, "--scratch", tmp_path / "scratch")
    return run(tmp_path, "measure_text.py", what, *where, *named, "--", "--ctx-size", "8")


def metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
    said = [row["metric"] for row in rows if "metric" in row]
    return {f"{one['of']}.{one['name']}" if "of" in one else one["name"]: one["value"] for one in said}


def errors(rows: list[dict[str, Any]]) -> list[str]:
    return [row["error"]["message"] for row in rows if "error" in row]


FINAL = 'echo "[1]9.5,[2]9.1,"; echo "Final estimate: PPL = 9.1234 +/- 0.25"'


def test_a_perplexity_is_read_from_the_last_line(tmp_path: Path) -> None:
    code, rows, _ = measure(tmp_path, "perplexity", FINAL)
    assert code == 0
    assert metrics(rows)["f16.perplexity"] == metrics(rows)["perplexity"] == 9.1234
    assert metrics(rows)["perplexity_error"] == 0.25
    assert {"phase": "f16", "done": 2, "total": 2, "unit": "windows"} in [r.get("progress") for r in rows]
    assert json.loads((tmp_path / "out/report.json").read_text())["models"][0]["perplexity"] == 9.1234


def test_a_lost_last_line_is_measured_once_more(tmp_path: Path) -> None:
    body = f'if [ -e "{tmp_path}/once" ]; then {FINAL}; else touch "{tmp_path}/once"; echo "[1]9.5,"; fi'
    code, rows, log = measure(tmp_path, "perplexity", body)
    assert code == 0
    assert metrics(rows)["perplexity"] == 9.1234
    assert "once more" in log


def test_a_last_line_that_is_lost_twice_is_a_failure(tmp_path: Path) -> None:
    code, rows, _ = measure(tmp_path, "perplexity", f'echo x >> "{tmp_path}/times"; echo "[1]9.5,"')
    assert code == 1
    assert "twice" in errors(rows)[0]
    assert (tmp_path / "times").read_text() == "x\nx\n"


def test_a_text_that_is_too_short_is_told_although_the_tool_ends_with_0(tmp_path: Path) -> None:
    said = 'echo "perplexity: you need at least 1024 tokens to evaluate perplexity with a context of 512"'
    code, rows, _ = measure(tmp_path, "perplexity", said)
    assert code == 1
    assert "too short" in errors(rows)[0] and "1024" in errors(rows)[0]


def test_nan_is_a_failure(tmp_path: Path) -> None:
    code, rows, _ = measure(tmp_path, "perplexity", 'echo "Final estimate: PPL = nan +/- nan"')
    assert code == 1
    assert "perplexity is nan" in errors(rows)[0]


def test_nan_on_the_way_is_a_failure_although_no_last_line_comes(tmp_path: Path) -> None:
    said = 'echo "[1]nan,[2]nan,"; echo "Unexpected negative standard deviation of log(prob)"'
    code, rows, _ = measure(tmp_path, "perplexity", said)
    assert code == 1
    assert "perplexity is nan" in errors(rows)[0]


def test_a_model_is_held_against_the_first_one(tmp_path: Path) -> None:
    body = """case "$*" in *--kl-divergence\\ *)
        printf 'Mean PPL(Q)                   :   9.500000 ±   0.300000\\nMean PPL(Q)/PPL(base)   :   1.041\\n'
        printf 'Mean    KLD:   0.012345 ±   0.000100\\nSame top p: 93.500 ± 0.5 %%\\n';;
    *) echo "Final estimate: PPL = 9.1234 +/- 0.25";; esac"""
    code, rows, log = measure(tmp_path, "kl-divergence", body, "f16", "q4")
    assert code == 0, log
    assert metrics(rows)["q4.mean_kld"] == metrics(rows)["mean_kld"] == 0.012345
    assert metrics(rows)["q4.same_top"] == pytest.approx(0.935)
    assert metrics(rows)["f16.perplexity"] == 9.1234


def test_a_binary_file_is_never_measured(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "rows.arrow").write_bytes(b"ARROW1\0\0" + bytes(100))
    code, rows, _ = measure(tmp_path, "perplexity", FINAL)
    assert code == 1
    assert "is an Arrow file, not text" in errors(rows)[0]


def gguf(path: Path, cut: int = 0) -> Path:
    """A GGUF with one tensor of 64 weights in Q8_0: 68 bytes, 8.5 bits each."""

    def text(said: str) -> bytes:
        return struct.pack("<Q", len(said)) + said.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("general.name") + struct.pack("<I", 8) + text("tiny")
    head += text("blk.0.w") + struct.pack("<IQIQ", 1, 64, 8, 0)
    data = head + bytes(-len(head) % 32) + bytes(68)
    path.write_bytes(data[: len(data) - cut])
    return path


def test_bits_per_weight_are_read_from_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    made = gguf(tmp_path / "made")
    code, rows, log = run(
        tmp_path, "make_gguf.py", tmp_path / "out", "--", "/bin/cp", made, tmp_path / "out/m.gguf"
    )
    assert code == 0, log
    facts = next(row["fact"] for row in rows if "fact" in row)
    assert (facts["bits"], facts["parameters"], facts["bytes"]) == (8.5, 64, 68)
    assert facts["extra"]["tensor_types"] == {"Q8_0": 1}
    assert metrics(rows) == {"bits_per_weight": 8.5, "size": made.stat().st_size}


def test_a_result_that_is_cut_short_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    made = gguf(tmp_path / "made", cut=10)
    code, rows, _ = run(
        tmp_path, "make_gguf.py", tmp_path / "out", "--", "/bin/cp", made, tmp_path / "out/m.gguf"
    )
    assert code == 1
    assert "10 bytes are missing" in errors(rows)[0]


def test_what_a_failed_tool_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    body = f'echo half > "{out}/m.gguf"; echo "No space left on device" >&2; exit 1'
    code, rows, _ = run(tmp_path, "make_gguf.py", out, "--", tool(tmp_path, body))
    assert code == 1
    assert errors(rows) == ["the disk is full"]
    assert list(out.iterdir()) == []


def test_speeds_have_the_names_of_llama_bench(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    row = {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 100.5, "stddev_ts": 1.0}
    deep = {**row, "n_prompt": 0, "n_gen": 128, "n_depth": 4096, "avg_ts": 10.25}
    bench = tool(tmp_path, f"echo progress >&2; echo '{json.dumps([row, deep])}'")
    where = ("--tool", bench, "--out", tmp_path / "out", "--model", "q4=q4.gguf")
    code, rows, log = run(tmp_path, "lc_bench.py", *where, "--", "-r", "1")
    assert code == 0, log
    assert metrics(rows) == {"q4.pp512": 100.5, "pp512": 100.5, "q4.tg128_d4096": 10.25, "tg128_d4096": 10.25}


def asked(tmp_path: Path, body: str, question: str = "Who?") -> subprocess.CompletedProcess[str]:
    """What a question that is piped in gives."""
    once = tool(tmp_path, body)
    words = ("--chat", "/nowhere", "--once", once, "--model", "m.gguf", "--", "--temp", "0")
    return subprocess.run(
        [sys.executable, str(DRIVERS / "lc_chat.py"), *map(str, words)],
        input=question, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (r"\n\nHello there. [end of text]\n\n\n", "Hello there.\n"),
        (r"Hello there, cut off", "Hello there, cut off\n"),
        (r"It says [end of text] in it.\n", "It says [end of text] in it.\n"),
        (r"", "\n"),
    ],
)
def test_an_answer_is_all_of_the_output_without_the_tools_mark(
    tmp_path: Path, written: str, answer: str
) -> None:
    ended = asked(tmp_path, f"printf '{written}'")
    assert (ended.returncode, ended.stdout) == (0, answer)


def test_a_question_reaches_the_tool_as_it_is(tmp_path: Path) -> None:
    ended = asked(tmp_path, 'while [ "$1" != -f ]; do shift; done; cat "$2"', "\n$(id) `id` \\n 你好\n")
    assert ended.stdout == "$(id) `id` \\n 你好\n"


def test_a_question_that_is_not_there_and_a_tool_that_fails_are_told(tmp_path: Path) -> None:
    ended = asked(tmp_path, "true", " \n")
    assert ended.returncode == 1 and "there is no question" in ended.stderr
    ended = asked(tmp_path, "echo 'error loading model' >&2; exit 1")
    assert ended.returncode == 1 and "the model cannot be loaded" in ended.stderr
