"""Headers of model files: real layouts are read, and no bytes whatever bring the readers down."""

from __future__ import annotations

import contextlib
import io
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwend.model.gguf import read_gguf
from qwend.model.headers import Header, HeaderError, LongArray, read_safetensors


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, items: list[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    pairs: list[bytes],
    tensors: list[bytes],
    data: int = 0,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32 + data)


def safetensors(header: Any, data: int = 0) -> bytes:
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(body)) + body + b"\0" * data


ARCHITECTURE = pair("general.architecture", 8, text("qwen2"))
SMALL = gguf(
    [
        ARCHITECTURE,
        pair("qwen2.block_count", 4, struct.pack("<I", 24)),
        pair("qwen2.rope.freq_base", 6, struct.pack("<f", 1e6)),
        pair("tokenizer.ggml.add_bos_token", 7, b"\0"),
        pair("tokenizer.ggml.tokens", 9, array(8, [text(f"t{n}") for n in range(100)])),
        pair("tokenizer.ggml.token_type", 9, array(5, [struct.pack("<i", 1)] * 100)),
        pair("qwen2.few", 9, array(4, [struct.pack("<I", n) for n in range(3)])),
    ],
    [tensor("a.weight", (256, 4), 12, 0), tensor("b.weight", (3,), 0, 576)],
    data=576 + 32,
)
PLAIN = safetensors(
    {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]},
        "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "empty": {"dtype": "F32", "shape": [0], "data_offsets": [12, 12]},
    },
    20,
)


def test_a_gguf_header_gives_metadata_and_tensors_with_long_arrays_only_counted() -> None:
    header = read_gguf(io.BytesIO(SMALL))
    assert header.metadata["general.architecture"] == "qwen2"
    assert header.metadata["qwen2.block_count"] == 24
    assert header.metadata["qwen2.rope.freq_base"] == 1e6
    assert header.metadata["tokenizer.ggml.add_bos_token"] is False
    assert header.metadata["tokenizer.ggml.tokens"] == LongArray(100)
    assert header.metadata["tokenizer.ggml.token_type"] == LongArray(100)
    assert header.metadata["qwen2.few"] == [0, 1, 2]
    assert [(t.name, t.dtype, t.shape, t.size) for t in header.tensors] == [
        ("a.weight", "Q4_K", (4, 256), 4 * 144),
        ("b.weight", "F32", (3,), 12),
    ]
    assert header.parameters == 1027
    assert header.bits_per_weight == pytest.approx(8 * (576 + 12) / 1027)


def test_a_tensor_type_from_the_future_is_kept_with_an_unknown_size() -> None:
    header = read_gguf(io.BytesIO(gguf([ARCHITECTURE], [tensor("a", (7,), 999, 0)], 32)))
    assert (header.tensors[0].dtype, header.tensors[0].size, header.bits_per_weight) == (
        "type 999",
        None,
        None,
    )


def test_a_safetensors_header_gives_the_tensors_in_file_order() -> None:
    header = read_safetensors(io.BytesIO(PLAIN))
    assert [(t.name, t.shape, t.size) for t in header.tensors] == [
        ("a", (2, 3), 12),
        ("empty", (0,), 0),
        ("b", (2,), 8),
    ]
    assert header.metadata == {"format": "pt"}
    assert (header.parameters, header.tensor_bytes) == (8, 20)


HUGE = struct.pack("<Q", 1 << 62)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ends within the magic number"),
        (b"\x80\x02}q\x00" + b"\0" * 40, "not a GGUF file"),
        (gguf([], [], version=1), "version 1 is not supported"),
        (b"GGUF" + struct.pack(">I", 3) + b"\0" * 32, "a big-endian file is not supported"),
        (gguf([], [], counts=(1 << 60, 0)), "claims 1152921504606846976 tensors"),
        (gguf([], [], counts=(0, 1 << 60)), "claims 1152921504606846976 metadata"),
        (gguf([HUGE + b"x" * 20], []), "a key claims 4611686018427387904 bytes"),
        (gguf([pair("k", 8, HUGE)], []), "the value of 'k' claims"),
        (gguf([pair("k", 9, struct.pack("<IQ", 4, 1 << 40))], []), "claims 1099511627776 items"),
        (gguf([pair("k", 9, struct.pack("<IQ", 9, 1) + b"\0" * 16)], []), "an array of the unknown type 9"),
        (gguf([pair("k", 77, b"\0" * 8)], []), "the unknown type 77"),
        (gguf([ARCHITECTURE, ARCHITECTURE], []), "the key 'general.architecture' stands twice"),
        (gguf([pair("general.alignment", 4, struct.pack("<I", 24))], []), "no power of two"),
        (gguf([ARCHITECTURE], [tensor("a", (8,), 0, 7)], 64), "not a multiple of 32"),
        (gguf([ARCHITECTURE], [tensor("a", (8,), 0, 0)] * 2, 64), "the tensor 'a' stands twice"),
        (gguf([ARCHITECTURE], [tensor("a", (100,), 12, 0)], 64), "not a multiple of 256 (Q4_K)"),
        (gguf([ARCHITECTURE], [tensor("a", (1,) * 9, 0, 0)], 64), "claims 9 dimensions"),
        (gguf([ARCHITECTURE], [tensor("a", (1 << 62, 1 << 62), 0, 0)], 64), "it is cut short"),
        (SMALL[:-64], "it is cut short"),
    ],
)
def test_a_malformed_gguf_header_is_refused_with_its_reason(data: bytes, said: str) -> None:
    with pytest.raises(HeaderError) as caught:
        read_gguf(io.BytesIO(data))
    assert said in str(caught.value)


def one(**changes: Any) -> bytes:
    return safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}, 8)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a safetensors file"),
        (b"PK\x03\x04" + b"\0" * 60, "not a safetensors file: its header claims"),
        (struct.pack("<Q", 1 << 63) + b"{}", "its header claims 9223372036854775808 bytes of 10"),
        (safetensors(b"{"), "is no JSON"),
        (safetensors(b"[" * 100_000), "is no JSON"),
        (safetensors([]), "is no JSON object"),
        (safetensors({"a": 3}), "described by no JSON object"),
        (safetensors({"__metadata__": []}), "__metadata__ is no JSON object"),
        (safetensors(b'{"a": {}, "a": {}}'), "a name stands twice"),
        (one(dtype="F33"), "the unknown type 'F33'"),
        (one(shape=[-2]), "no shape of whole numbers"),
        (one(shape=[2.0]), "no shape of whole numbers"),
        (one(shape=[True, 2]), "no shape of whole numbers"),
        (one(data_offsets=[8, 0]), "no data_offsets"),
        (one(data_offsets=[0, 4]), "has 4 bytes, not what F32 of shape [2] takes"),
        (one(shape=[1 << 62] * 16), "has 8 bytes, not what"),
        (one(data_offsets=[4, 12]), "leaves a hole"),
        (PLAIN[:-1], "it is cut short"),
        (PLAIN + b"x", "there is more behind it"),
    ],
)
def test_a_malformed_safetensors_header_is_refused_with_its_reason(data: bytes, said: str) -> None:
    with pytest.raises(HeaderError) as caught:
        read_safetensors(io.BytesIO(data))
    assert said in str(caught.value)


def test_overlapping_tensors_are_refused() -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    with pytest.raises(HeaderError, match="overlaps"):
        read_safetensors(io.BytesIO(safetensors({"a": entry, "b": entry}, 16)))


class Counting(io.BytesIO):
    """Counts the bytes that are asked for at once."""

    most = 0

    def read(self, size: int | None = -1) -> bytes:
        self.most = max(self.most, size if size is not None and size >= 0 else 1 << 62)
        return super().read(size)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_change_of_a_valid_file_gives_anything_but_a_header_or_a_header_error(data: st.DataObject) -> None:
    for original, read in ((SMALL, read_gguf), (PLAIN, read_safetensors)):
        changed = bytearray(original)
        for _ in range(data.draw(st.integers(1, 4))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        changed = changed[: data.draw(st.integers(0, len(changed)))] if data.draw(st.booleans()) else changed
        file = Counting(bytes(changed))
        try:
            header = read(file)
        except HeaderError:
            pass
        else:
            assert isinstance(header, Header)
            assert all(t.offset + (t.size or 0) <= len(changed) for t in header.tensors)
        assert file.most <= 16 * 1024**2, (
            "no more is asked for than the largest text that may stand in a header"
        )


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_bring_a_reader_down(data: bytes) -> None:
    for head in (b"", b"GGUF\3\0\0\0"):
        for read in (read_gguf, read_safetensors):
            with contextlib.suppress(HeaderError):
                read(io.BytesIO(head + data))
