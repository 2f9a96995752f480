"""llama.cpp's tools on the smoke model: learnt from, quantised, split, merged, measured, and what is refused."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.engine("llama_cpp", images=["llama-cpp", "llama-cpp-convert"]),
]

RECIPE = """\
version: 1
name: tools
models: {base: smoke:qwen2}
datasets:
  calib: file:calib.txt
  words: file:words.txt
steps:
  f16: {uses: llama-cpp/convert, from: base, with: {outtype: f16}}
  importance: {uses: llama-cpp/imatrix, from: f16, with: {text: calib, context: 64, chunks: 10, threads: 1}}
  quant:
    uses: llama-cpp/quantize
    from: f16
    matrix: {type: [Q8_0, Q4_K_M]}
    with: {imatrix: importance, tensor_type: {attn_v: q6_k}, token_embedding_type: q4_k}
  parts: {uses: llama-cpp/split, from: f16, with: {split_max_tensors: 10}}
  whole: {uses: llama-cpp/merge, from: parts}
  reading: {uses: llama-cpp/perplexity, from: [f16, whole], with: {text: words, context: 64, chunks: 4, threads: 1}}
  quality:
    uses: llama-cpp/kl-divergence
    from: [f16, quant]
    with: {text: words, context: 64, chunks: 4, threads: 1}
    expect: ["quant[Q8_0].mean_kld <= quant[Q4_K_M].mean_kld"]
  speed: {uses: llama-cpp/bench, from: quant, with: {n_prompt: [16], n_gen: [4], repetitions: 1, threads: [1]}}
"""


def recipe(qwend: Qwend, text: str = RECIPE, words: int = 2000) -> str:
    (qwend.folder / "calib.txt").write_text(
        "".join(f"The {n} bears eat {n * 7} apples.\n" for n in range(500))
    )
    (qwend.folder / "words.txt").write_text(" ".join(f"word {n}" for n in range(words)))
    path = qwend.folder / "tools.yaml"
    path.write_text(text)
    return str(path)


def artifact(qwend: Qwend, step: str) -> dict[str, Any]:
    found: dict[str, Any] = qwend.json("inspect", f"tools/{step}")["artifact"]
    return found


def test_a_model_goes_through_every_tool(qwend: Qwend) -> None:
    qwend("up", recipe(qwend))
    assert artifact(qwend, "importance")["type"] == "imatrix/gguf"

    small, large = artifact(qwend, "quant[Q4_K_M]"), artifact(qwend, "quant[Q8_0]")
    assert 4 < small["facts"]["bits"] < large["facts"]["bits"] < 9
    assert small["facts"]["extra"]["tensor_types"]["Q6_K"] >= 2
    assert small["metrics"]["size"] == sum(file["size"] for file in small["files"])

    assert len(artifact(qwend, "parts")["files"]) > 1
    assert len(artifact(qwend, "whole")["files"]) == 1
    assert artifact(qwend, "whole")["facts"]["bits"] == artifact(qwend, "f16")["facts"]["bits"]

    read = artifact(qwend, "reading")["metrics"]
    assert read["f16.perplexity"] == read["whole.perplexity"] > 1

    quality = artifact(qwend, "quality")["metrics"]
    assert 0 <= quality["quant[Q8_0].mean_kld"] < quality["quant[Q4_K_M].mean_kld"]
    assert 0 < quality["quant[Q4_K_M].same_top"] <= 1
    speeds = artifact(qwend, "speed")["metrics"]
    assert speeds["quant[Q8_0].pp16"] > 0 and speeds["quant[Q4_K_M].tg4"] > 0


def test_a_text_that_is_too_short_and_a_file_that_is_cut_are_told(qwend: Qwend, tmp_path: Path) -> None:
    text = RECIPE.partition("  importance:")[0] + (
        "  reading: {uses: llama-cpp/perplexity, from: f16, with: {text: words, context: 64, threads: 1}}\n"
    )
    ended = qwend.try_("up", recipe(qwend, text, words=18))  # 134 bytes, fewer than 128 tokens
    assert ended.returncode == 1
    assert "the text is too short" in ended.stderr
    assert "Traceback" not in ended.stderr

    whole = next(Path(artifact(qwend, "f16")["location"]).glob("*.gguf"))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:-1000])
    ended = qwend.try_("run", "llama-cpp/quantize", "--from", f"file:{cut}", "--with", "type=Q8_0")
    assert ended.returncode != 0
    assert "cut.gguf" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_one_question_is_answered_and_the_answer_is_all_of_the_output(qwend: Qwend) -> None:
    options = ("--with", "n_predict=8", "--with", "temp=0", "--with", "threads=1")
    asked = qwend.try_("run", "llama-cpp/chat", "--from", "smoke:qwen2", "--with", "prompt=Hello", *options)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip() and "end of text" not in asked.stdout and "uses:" not in asked.stdout
    piped = subprocess.run(
        qwend.command("run", "llama-cpp/chat", "--from", "smoke:qwen2", *options), input="Hello\n", cwd=qwend.folder,
        env=qwend.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (piped.returncode, piped.stdout) == (0, asked.stdout), piped.stderr
    assert [row["step"] for row in qwend.json("ps")] == ["input"] * 2, "only what is supervised has a row"
    empty = qwend.try_("run", "llama-cpp/chat", "--from", "smoke:qwen2", *options)
    assert empty.returncode == 1 and "there is no question" in empty.stderr


def test_a_conversation_at_a_terminal(qwend: Qwend) -> None:
    command = qwend.command(
        "run", "llama-cpp/chat", "--from", "smoke:qwen2", "--with", "n_predict=4", "--with", "threads=1"
    )
    pid, screen = pty.fork()
    if pid == 0:
        os.chdir(qwend.folder)
        os.execve(command[0], command, {**qwend.environ, "TERM": "xterm"})
    said = b""
    for line in (b"Hello\n", b"And again\n", b"/exit\n"):
        said = _until(screen, said, b"\n> ")[-1:]
        os.write(screen, line)
    with contextlib.suppress(OSError):  # how a terminal says that nobody is left
        while os.read(screen, 4096):
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(screen)


def _until(screen: int, said: bytes, text: bytes) -> bytes:
    """Reads on until the screen says it; the part behind it is what is said next."""
    while text not in said:
        ready, _, _ = select.select([screen], [], [], 600)
        assert ready, f"never said {text!r}: {said[-2000:]!r}"
        try:
            said += os.read(screen, 4096)
        except OSError:
            raise AssertionError(f"ended without {text!r}: {said[-2000:]!r}") from None
    return said.partition(text)[2]


@pytest.mark.slow
def test_each_rung_of_the_ladder_is_further_from_the_reference_and_a_matrix_helps(qwend: Qwend) -> None:
    quick = (
        "importance.with.chunks=8",
        "quality.with.chunks=2",
        "speed.with.n_prompt=[16]",
        "speed.with.n_gen=[4]",
    )
    options = [word for one in quick for word in ("--set", f"steps.{one}")]
    qwend("up", "--smoke", str(ROOT / "recipes" / "gguf-ladder.yaml"), *options)  # its gates hold
    told = qwend.json("inspect", "gguf_ladder/quality")["artifact"]["metrics"]
    rungs = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
    plain = [told[f"plain[{rung}].mean_kld"] for rung in rungs]
    assert plain == sorted(plain) and plain[0] > 0
    for rung in rungs[2:]:
        assert told[f"weighted[{rung}].mean_kld"] < told[f"plain[{rung}].mean_kld"]
    page = qwend.folder / "ladder.html"
    qwend("report", "gguf_ladder", "-o", str(page))
    assert "plain[Q2_K]" in page.read_text() and "Mean KL divergence" in page.read_text()
