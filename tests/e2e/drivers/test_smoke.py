"""The tiny models are real Qwen models as far as formats and tokenizers go, and the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.drivers.conftest import Driver

from qwend.model.gguf import read_gguf
from qwend.model.weights import look

pytestmark = pytest.mark.e2e
ARCHITECTURES = ("qwen2", "qwen3", "qwen3moe")
QWEN3_TOKENIZER = "67361a7a7f6bc9ccf739439e39e5d16f2695a0242cab44ffd8c71f7dc502fab7"
"""sha256 over vocabulary, merges, added tokens and the four processors of Qwen3's published tokenizer.json."""


@pytest.fixture
def make(driver: Callable[[str, str, str], Driver]) -> Driver:
    return driver("smoke", "smoke", "make_model.py")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_is_the_same_bytes_twice_and_says_what_it_is(
    architecture: str, make: Driver, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    outcome = make("--architecture", architecture, "--out", tmp_path / "again")
    assert outcome.code == 0, outcome.err
    assert digests(tmp_path / "again") == digests(tiny(architecture))
    type_, facts = look(tmp_path / "again")
    assert type_ == "model/safetensors"
    assert facts.architecture == architecture.replace("moe", "_moe")
    assert (facts.hidden, facts.layers, facts.kv_heads, facts.head_dim) == (256, 2, 2, 64)
    assert (facts.vocabulary, facts.template, facts.dtype) == (151_936, "chatml", "bfloat16")
    told = next(row["fact"] for row in outcome.rows if "fact" in row)
    assert (told["architecture"], told["parameters"]) == (architecture, facts.parameters)
    assert outcome.progress()[-1] == {"phase": "write", "done": 3, "total": 3, "unit": "step"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gguf_form_holds_the_same_weights_and_says_the_same(
    architecture: str, tiny: Callable[..., Path]
) -> None:
    checkpoint = look(tiny(architecture))[1]
    for outtype, dtype in (("f16", "F16"), ("q8_0", "Q8_0")):
        type_, facts = look(tiny(architecture, "--format", "gguf", "--outtype", outtype))
        assert (type_, facts.architecture, facts.dtype) == ("model/gguf", architecture, dtype)
        same = (
            "parameters",
            "context",
            "layers",
            "kv_heads",
            "heads",
            "head_dim",
            "hidden",
            "vocabulary",
            "template",
        )
        assert [getattr(facts, name) for name in same] == [getattr(checkpoint, name) for name in same]


def test_bf16_f16_and_f32_are_one_model(make: Driver, tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Read here without numpy: the first embedding rows of each."""
    import struct

    from qwend.model.headers import read_safetensors

    rows = {}
    for dtype, code in (("bf16", "H"), ("f16", "e"), ("f32", "f")):
        assert make("--dtype", dtype, "--out", tmp_path / dtype).code == 0
        with (tmp_path / dtype / "model.safetensors").open("rb") as file:
            found = next(t for t in read_safetensors(file).tensors if t.name == "model.embed_tokens.weight")
            file.seek(found.offset)
            width = struct.calcsize(code)
            values = struct.unpack(f"<2560{code}", file.read(2560 * width))
        if dtype == "bf16":
            values = struct.unpack("<2560f", b"".join(struct.pack("<I", value << 16) for value in values))
        rows[dtype] = values
    assert rows["bf16"] == rows["f16"] == rows["f32"]
    assert len(set(rows["f32"])) > 100


def test_the_tokenizer_is_qwens_own(tiny: Callable[..., Path]) -> None:
    read: dict[str, Any] = json.loads((tiny("qwen3") / "tokenizer.json").read_text(encoding="utf-8"))
    others = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    parts = [read["model"]["vocab"], read["model"]["merges"], {name: read[name] for name in others}]
    assert hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest() == QWEN3_TOKENIZER


def test_the_gguf_vocabulary_is_padded_to_the_embedding_and_ends_turns_with_im_end(
    tiny: Callable[..., Path],
) -> None:
    path = next(tiny("qwen2", "--format", "gguf").iterdir())
    with path.open("rb") as file:
        header = read_gguf(file)
    assert header.metadata["tokenizer.ggml.pre"] == "qwen2"
    assert header.metadata["tokenizer.ggml.eos_token_id"] == 151_645
    embedding = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    assert embedding.shape == (header.metadata["tokenizer.ggml.tokens"].length, 256)


def test_another_seed_gives_another_model(make: Driver, tiny: Callable[..., Path], tmp_path: Path) -> None:
    assert make("--seed", "1", "--out", tmp_path / "other").code == 0
    other, first = digests(tmp_path / "other"), digests(tiny("qwen2"))
    assert [name for name in first if first[name] != other[name]] == ["model.safetensors"]


def test_a_folder_that_cannot_be_written_is_one_line(make: Driver, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    error = make("--out", tmp_path / "file" / "below").error
    assert str(tmp_path / "file") in error["message"]


def test_an_unknown_architecture_is_a_matter_of_usage(make: Driver, tmp_path: Path) -> None:
    outcome = make("--architecture", "llama", "--out", tmp_path / "x")
    assert (outcome.code, "invalid choice: 'llama'" in outcome.err) == (2, True)
    assert not os.path.exists(tmp_path / "x")
