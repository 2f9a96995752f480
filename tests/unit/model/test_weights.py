"""Type and facts of a model follow from its files; an incomplete one is refused by the name of what is missing."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.unit.model.test_headers import array, gguf, pair, safetensors, tensor, text

from qwend.model.headers import HeaderError
from qwend.model.weights import look


def number(key: str, value: int) -> bytes:
    return pair(key, 4, struct.pack("<I", value))


def write_gguf(path: Path, *, split: tuple[int, int] | None = None, extra: list[bytes] | None = None) -> None:
    pairs = [
        pair("general.architecture", 8, text("qwen3")),
        number("general.file_type", 15),
        number("qwen3.context_length", 40960),
        number("qwen3.block_count", 28),
        number("qwen3.embedding_length", 1024),
        number("qwen3.attention.head_count", 16),
        number("qwen3.attention.head_count_kv", 8),
        number("qwen3.attention.key_length", 128),
        pair("tokenizer.ggml.tokens", 9, array(8, [text(str(n)) for n in range(200)])),
        pair("tokenizer.chat_template", 8, text("{{ '<|im_start|>' }}")),
        *(extra or []),
    ]
    if split:
        pairs += [number("split.no", split[0]), number("split.count", split[1])]
    tensors = [tensor("a", (256, 8), 12, 0), tensor("n", (256,), 0, 1152)]
    path.write_bytes(gguf(pairs, tensors, 1152 + 1024))


def checkpoint(folder: Path, config: dict[str, Any], tensors: dict[str, tuple[str, list[int], int]]) -> Path:
    """A folder with `config.json` and one safetensors file; a tensor is (dtype, shape, bytes)."""
    header, at = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors(header, at))
    return folder


CONFIG = {
    "model_type": "qwen2",
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "hidden_size": 896,
    "max_position_embeddings": 32768,
    "vocab_size": 151936,
    "torch_dtype": "bfloat16",
}


def test_a_gguf_file_tells_all_that_a_memory_estimate_needs(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    type_, facts = look(tmp_path / "m.gguf")
    assert type_ == "model/gguf"
    assert (facts.architecture, facts.dtype, facts.template) == ("qwen3", "Q4_K_M", "chatml")
    assert (facts.context, facts.layers, facts.kv_heads, facts.heads, facts.head_dim) == (
        40960,
        28,
        8,
        16,
        128,
    )
    assert (facts.parameters, facts.bytes, facts.vocabulary) == (2304, 2176, 200)
    assert facts.bits == pytest.approx(8 * 2176 / 2304, abs=0.001)
    assert facts.extra == {"tensor_types": {"F32": 1, "Q4_K": 1}}


def test_the_shards_of_a_gguf_model_count_together_and_must_all_be_there(tmp_path: Path) -> None:
    for shard in (1, 2):
        write_gguf(tmp_path / f"m-{shard:05}-of-00002.gguf", split=(shard - 1, 2))
    assert look(tmp_path)[1].parameters == 2 * 2304
    write_gguf(tmp_path / "m-00001-of-00002.gguf", split=(0, 3))
    with pytest.raises(HeaderError, match="3 shards belong to it, 2 are here"):
        look(tmp_path)


def test_an_adapter_and_an_importance_matrix_in_gguf_are_no_models(tmp_path: Path) -> None:
    for kind, type_ in (("adapter", "adapter/gguf"), ("imatrix", "imatrix/gguf")):
        write_gguf(tmp_path / "m.gguf", extra=[pair("general.type", 8, text(kind))])
        assert look(tmp_path / "m.gguf")[0] == type_


def test_a_checkpoint_takes_its_shape_from_config_and_its_size_from_the_header(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", CONFIG, {"a": ("BF16", [4, 8], 64)})
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<|im_start|>"}))
    type_, facts = look(folder)
    assert type_ == "model/safetensors"
    assert (facts.architecture, facts.dtype, facts.template) == ("qwen2", "bfloat16", "chatml")
    assert (facts.layers, facts.kv_heads, facts.head_dim, facts.context) == (24, 2, 64, 32768)
    assert (facts.parameters, facts.bytes, facts.bits) == (32, 64, 16.0)


def test_packed_weights_count_as_the_weights_they_stand_for(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    tensors = {
        "l.g_idx": ("I32", [256], 1024),
        "l.qweight": ("I32", [32, 64], 8192),  # 256 x 64 weights of 4 bits
        "l.qzeros": ("I32", [2, 8], 64),
        "l.scales": ("F16", [2, 64], 256),
        "norm": ("F16", [64], 128),
    }
    type_, facts = look(checkpoint(tmp_path / "m", config, tensors))
    assert (type_, facts.parameters) == ("model/gptq", 256 * 64 + 64)


@pytest.mark.parametrize(
    ("config", "type_"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "model/awq"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "model/compressed-tensors"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "model/mlx"),
        ({}, "model/safetensors"),
    ],
)
def test_the_quantiser_that_config_names_gives_the_type(
    tmp_path: Path, config: dict[str, Any], type_: str
) -> None:
    assert look(checkpoint(tmp_path / "m", CONFIG | config, {"a": ("F16", [2], 4)}))[0] == type_


def test_a_lora_adapter_names_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen2.5-0.5B"}')
    entry = {"dtype": "F32", "shape": [8, 2], "data_offsets": [0, 64]}
    (tmp_path / "adapter_model.safetensors").write_bytes(safetensors({"lora_A": entry}, 64))
    type_, facts = look(tmp_path)
    assert (type_, facts.base, facts.parameters) == ("adapter/lora", "Qwen/Qwen2.5-0.5B", 16)


def test_a_folder_without_weights_is_no_model(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", CONFIG, {"a": ("F16", [2], 4)})
    (folder / "model.safetensors").unlink()
    with pytest.raises(HeaderError, match=r"m: it has a config\.json and no weights"):
        look(folder)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(HeaderError, match=r"no adapter_model\.safetensors"):
        look(tmp_path)


def test_a_gguf_beside_a_config_is_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_gguf(tmp_path / "m.gguf")
    assert look(tmp_path)[0] == "model/gguf"


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", CONFIG, {"a": ("F16", [2], 4)})
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(HeaderError, match=r"model-00002-of-00002\.safetensors of 2 files missing"):
        look(folder)


def test_an_index_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", CONFIG, {"a": ("F16", [2], 4)})
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    with pytest.raises(HeaderError, match="files of this folder"):
        look(folder)


@pytest.mark.parametrize("content", [b"[]", b"{", b"[" * 50_000, b"\xff\xfe"])
def test_a_config_that_is_no_object_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    folder = checkpoint(tmp_path / "m", CONFIG, {"a": ("F16", [2], 4)})
    (folder / "config.json").write_bytes(content)
    with pytest.raises(HeaderError, match=r"config\.json: no JSON"):
        look(folder)


def test_a_corrupt_file_is_named_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(HeaderError, match=r"m\.gguf: the file ends within the number of tensors.*at byte 8"):
        look(tmp_path)
