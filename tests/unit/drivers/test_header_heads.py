"""The hub drivers read the head of a GGUF file by range: right for real layouts, bounded for any bytes."""

from __future__ import annotations

import struct

import pytest
from facts import MAX_HEADER, _gguf_keys, _parse_keys, _ShortError, config_type
from hubs import HubError
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.model.test_headers import array, gguf, pair, text

KEYS = [
    pair("general.architecture", 8, text("qwen2")),
    pair("qwen2.block_count", 4, struct.pack("<I", 24)),
    pair("qwen2.per_layer", 9, array(4, [struct.pack("<I", n) for n in (2, 8)])),
    pair("tokenizer.ggml.tokens", 9, array(8, [text("token")] * 1000)),
    pair("never.read", 4, struct.pack("<I", 1)),
]


def test_the_keys_up_to_the_vocabulary_are_read_and_its_length_stands_for_it() -> None:
    assert _parse_keys(gguf(KEYS, [])[:300]) == {
        "general.architecture": "qwen2",
        "qwen2.block_count": 24,
        "qwen2.per_layer": [2, 8],
        "tokenizer.ggml.tokens": 1000,
    }


def test_more_of_the_file_is_asked_for_until_the_head_is_whole() -> None:
    data = gguf([pair("long", 8, text("x" * 300_000)), *KEYS], [])
    asked: list[int] = []

    def read(start: int, end: int) -> bytes:
        asked.append(end - start)
        return data[start:end]

    assert _gguf_keys(read, "m.gguf", "o/r")["qwen2.block_count"] == 24
    assert asked == [64 << 10, 256 << 10, 1 << 20]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04" + b"\0" * 100, "not a GGUF file"),
        (gguf(KEYS, [], version=9), "GGUF version 9 is not known"),
        (gguf([pair("k", 99, b"")], []), "its key 'k' has the unknown type 99"),
        (gguf(KEYS, [])[:60], "ends within its header"),
        (gguf([pair("k", 8, struct.pack("<Q", 1 << 60))], []), "ends within its header"),
    ],
)
def test_a_broken_head_is_named_with_its_file(data: bytes, said: str) -> None:
    with pytest.raises(HubError) as caught:
        _gguf_keys(lambda start, end: data[start:end], "m.gguf", "o/r")
    assert (caught.value.kind, said in str(caught.value), "m.gguf of o/r" in str(caught.value)) == (
        "corrupt",
        True,
        True,
    )


def test_an_endless_head_is_given_up() -> None:
    endless = gguf([pair("k", 9, struct.pack("<IQ", 0, 1 << 40))], []) + b"\0" * MAX_HEADER * 4
    with pytest.raises(HubError, match="ends within its header"):
        _gguf_keys(lambda start, end: endless[start:end], "m.gguf", "o/r")


@given(st.binary(max_size=200))
def test_no_bytes_bring_the_reader_down(data: bytes) -> None:
    for head in (b"", b"GGUF\3\0\0\0" + b"\0" * 8):
        try:
            keys = _parse_keys(head + data)
        except (_ShortError, ValueError):
            continue
        assert isinstance(keys, dict)


def test_the_type_of_a_checkpoint_follows_from_its_quantisation() -> None:
    assert config_type({}) == "model/safetensors"
    assert config_type({"quantization_config": {"quant_method": "awq"}}) == "model/awq"
    assert config_type({"quantization": {"bits": 4}}) == "model/mlx"
