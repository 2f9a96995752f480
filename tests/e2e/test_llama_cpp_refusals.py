"""Damaged and strange models, given to the real tools: each is refused with what is wrong and what to do."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path

import pytest
from tests.e2e.conftest import Qwend

from qwend.model.gguf import read_gguf

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.engine("llama_cpp", "evaluate", images=["llama-cpp", "llama-cpp-convert"]),
]

TEXT = " ".join(f"word {n}" for n in range(2000))
MEASURED = """\
version: 1
name: damaged
models: {{model: "file:{model}"}}
datasets: {{words: file:words.txt}}
steps:
  reading: {{uses: {engine}, from: model, with: {{text: words, context: 64, chunks: 2, threads: 1}}}}
"""


@pytest.fixture
def gguf(qwend: Qwend, tmp_path: Path) -> Path:
    """A GGUF in 16 bits that may be spoilt."""
    made = Path(qwend("run", "hub/fetch", "--from", "smoke:qwen2").strip().splitlines()[-1])
    where = Path(
        qwend("run", "llama-cpp/convert", "--from", f"file:{made}", "--with", "outtype=f16")
        .strip()
        .splitlines()[-1]
    )
    copy = tmp_path / "model.gguf"
    shutil.copyfile(next(where.glob("*.gguf")), copy)
    return copy


def refused(qwend: Qwend, *arguments: str) -> str:
    ended = qwend.try_(*arguments)
    assert ended.returncode in (1, 2), ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def measured(qwend: Qwend, model: Path, engine: str) -> str:
    (qwend.folder / "words.txt").write_text(TEXT)
    path = qwend.folder / "damaged.yaml"
    path.write_text(MEASURED.format(model=model, engine=engine))
    return refused(qwend, "up", str(path))


def test_weights_that_are_no_numbers_are_no_result(qwend: Qwend, gguf: Path) -> None:
    with gguf.open("r+b") as file:
        head = read_gguf(file)
        (tensor,) = [one for one in head.tensors if one.name == "output_norm.weight"]
        file.seek(tensor.offset)
        file.write(struct.pack("<f", float("nan")) * 4)
    for engine in ("llama-cpp/perplexity", "evaluate/perplexity"):
        said = measured(qwend, gguf, engine)
        assert re.search(r"computes no numbers|is no number|nan", said), said


def test_a_file_that_lies_about_its_tensors_never_reaches_a_tool(qwend: Qwend, gguf: Path) -> None:
    data = bytearray(gguf.read_bytes())
    at = data.index(b"output_norm.weight") + len(b"output_norm.weight")
    dimensions = struct.unpack_from("<I", data, at)[0]
    struct.pack_into("<Q", data, at + 4, 1 << 40)  # its first dimension
    assert dimensions == 1
    gguf.write_bytes(data)
    said = refused(qwend, "plan", *_recipe(qwend, gguf))
    assert "model.gguf" in said and "output_norm.weight" in said, said


def test_a_file_that_is_cut_short_never_reaches_a_tool(qwend: Qwend, gguf: Path) -> None:
    gguf.write_bytes(gguf.read_bytes()[:-4096])
    said = refused(qwend, "plan", *_recipe(qwend, gguf))
    assert "model.gguf" in said and re.search(r"end|short|beyond|truncated", said), said


def test_a_vocabulary_that_the_converter_does_not_know_is_told_with_what_to_do(
    qwend: Qwend, tmp_path: Path
) -> None:
    made = Path(qwend("run", "hub/fetch", "--from", "smoke:qwen2").strip().splitlines()[-1])
    strange = tmp_path / "strange"
    shutil.copytree(made, strange, copy_function=shutil.copyfile)
    tokenizer = json.loads((strange / "tokenizer.json").read_text("utf-8"))
    merges = tokenizer["model"]["merges"]
    tokenizer["model"]["merges"] = merges[len(merges) // 2 :]
    (strange / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (strange / "merges.txt").unlink()
    said = refused(qwend, "run", "llama-cpp/convert", "--from", f"file:{strange}")
    assert "the converter does not know this model's tokenizer" in said
    assert "tokenizer" in said.partition("(")[2], "what to do"


def _recipe(qwend: Qwend, model: Path) -> list[str]:
    (qwend.folder / "words.txt").write_text(TEXT)
    path = qwend.folder / "damaged.yaml"
    path.write_text(MEASURED.format(model=model, engine="llama-cpp/perplexity"))
    return [str(path)]
