"""What a model on a hub says of itself, from config.json and from headers read by range. Travels with `resolve`.

Enough for a memory estimate before anything is downloaded. What cannot be read is left out, never guessed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hubs import Hub, HubError, RemoteFile, Snapshot

MAX_CONFIG = 4 << 20
MAX_HEADER = 16 << 20
FIRST_READ = 64 << 10
LONG_ARRAY = 1024  # more layers than any model has
BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}
FILE_TYPES = {  # general.file_type of GGUF
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0",
    37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
METHODS = {"awq": "model/awq", "gptq": "model/gptq", "compressed-tensors": "model/compressed-tensors"}

Facts = dict[str, Any]
Local = Mapping[str, Path | None]


def _reader(hub: Hub, revision: str, file: RemoteFile, local: Local) -> Callable[[int, int], bytes]:
    """Reads bytes from start to end of a file: from the user's own copy if there is one."""
    if path := local.get(file.path):

        def read(start: int, end: int) -> bytes:
            with path.open("rb") as stream:
                stream.seek(start)
                return stream.read(end - start)

        return read
    return lambda start, end: hub.read(file.path, revision, start, end)


def config_type(config: Mapping[str, Any]) -> str:
    """The artifact type of a checkpoint, from what its config.json says of quantisation."""
    quantised = config.get("quantization_config")
    if isinstance(quantised, dict):
        return METHODS.get(str(quantised.get("quant_method")), "model/safetensors")
    return "model/mlx" if isinstance(config.get("quantization"), dict) else "model/safetensors"


def checkpoint(
    hub: Hub, snapshot: Snapshot, files: list[RemoteFile], local: Local
) -> tuple[dict[str, Any], Facts]:
    """config.json (empty if there is none) and the facts of a checkpoint or adapter."""

    def load(name: str) -> dict[str, Any]:
        file = next((file for file in files if file.path.rsplit("/", 1)[-1] == name), None)
        if file is None:
            return {}
        data = _reader(hub, snapshot.revision, file, local)(0, MAX_CONFIG)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise HubError("corrupt", f"{file.path} of {hub.repo} is no JSON") from None
        if not isinstance(value, dict):
            raise HubError("corrupt", f"{file.path} of {hub.repo} is no JSON object")
        return value

    config = load("config.json")
    weights = [file for file in files if file.path.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt"))]
    size = sum(file.size or 0 for file in weights) or None
    nested = config.get("text_config")
    shape = nested if isinstance(nested, dict) else config
    heads, hidden = _number(shape, "num_attention_heads"), _number(shape, "hidden_size")
    facts: Facts = {
        "architecture": config.get("model_type") if isinstance(config.get("model_type"), str) else None,
        "bytes": size,
        "context": _number(shape, "max_position_embeddings"),
        "layers": _number(shape, "num_hidden_layers"),
        "kv_heads": _number(shape, "num_key_value_heads") or heads,
        "heads": heads,
        "head_dim": _number(shape, "head_dim") or (hidden // heads if hidden and heads else None),
        "hidden": hidden,
        "vocabulary": _number(shape, "vocab_size"),
        "dtype": config.get("torch_dtype") or config.get("dtype") or shape.get("dtype"),
        "base": load("adapter_config.json").get("base_model_name_or_path"),
    }
    if "quantization_config" not in config and "quantization" not in config:
        # A hub counts packed weights by the words that hold them, so its figure is of use for plain ones only.
        counted = snapshot.parameters or _parameters(hub, snapshot, weights, local, str(facts["dtype"]), load)
        facts["parameters"] = counted
        if facts["parameters"] and size:
            facts["bits"] = round(8 * size / facts["parameters"], 3)
    return config, facts


def _parameters(
    hub: Hub,
    snapshot: Snapshot,
    weights: list[RemoteFile],
    local: Local,
    dtype: str,
    load: Callable[[str], Any],
) -> int | None:
    """Weights of a checkpoint: from the header of its one file, or from the total that its index states."""
    width = {"bfloat16": 2, "float16": 2, "float32": 4}.get(dtype)
    if len(weights) > 1:
        meta = load("model.safetensors.index.json").get("metadata")
        total = _number(meta, "total_size") if isinstance(meta, dict) else None
        return total // width if total and width else None
    if not weights or not weights[0].path.endswith(".safetensors"):
        return None
    read = _reader(hub, snapshot.revision, weights[0], local)
    head = read(0, FIRST_READ)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(MAX_HEADER, weights[0].size or MAX_HEADER):
        raise HubError("corrupt", f"{weights[0].path} of {hub.repo} is no safetensors file")
    head = head if len(head) >= 8 + length else read(0, 8 + length)
    try:
        entries = json.loads(head[8 : 8 + length])
        spans: list[tuple[str, list[int]]] = [
            (e["dtype"], e["data_offsets"]) for n, e in entries.items() if n != "__metadata__"
        ]
        return sum((end - start) // BYTES[kind] for kind, (start, end) in spans)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise HubError("corrupt", f"{weights[0].path} of {hub.repo} has a broken header") from None


def _number(values: Mapping[str, Any], key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def gguf_model(hub: Hub, snapshot: Snapshot, files: list[RemoteFile], local: Local) -> Facts:
    """Facts of a GGUF model from the head of its first file: all keys up to the vocabulary."""
    read = _reader(hub, snapshot.revision, files[0], local)
    keys = _gguf_keys(read, files[0].path, hub.repo)
    architecture = keys.get("general.architecture")
    size = sum(file.size or 0 for file in files)

    def number(key: str) -> int | None:
        value = keys.get(f"{architecture}.{key}")
        if isinstance(value, list):  # one for each layer: the largest bounds the memory
            value = max(value, default=None)
        return value if isinstance(value, int) and value > 0 else None

    heads, hidden = number("attention.head_count"), number("embedding_length")
    parameters = snapshot.parameters
    return {
        "architecture": architecture,
        "parameters": parameters,
        "bytes": size or None,
        "context": number("context_length"),
        "layers": number("block_count"),
        "kv_heads": number("attention.head_count_kv") or heads,
        "heads": heads,
        "head_dim": number("attention.key_length") or (hidden // heads if hidden and heads else None),
        "hidden": hidden,
        "vocabulary": keys.get("tokenizer.ggml.tokens"),
        "bits": round(8 * size / parameters, 3) if parameters and size else None,
        "dtype": FILE_TYPES.get(keys.get("general.file_type", -1)),
    }


class _ShortError(Exception):
    """More of the file is needed."""


def _gguf_keys(read: Callable[[int, int], bytes], path: str, repo: str) -> dict[str, Any]:
    """The keys of a GGUF header up to its vocabulary, of which the length stands for it."""
    size = FIRST_READ
    while True:
        data = read(0, size)
        try:
            return _parse_keys(data)
        except _ShortError:
            if len(data) < size or size >= MAX_HEADER:
                raise HubError("corrupt", f"{path} of {repo} ends within its header") from None
            size *= 4
        except ValueError as error:
            raise HubError("corrupt", f"{path} of {repo}: {error}") from None


def _parse_keys(data: bytes) -> dict[str, Any]:
    """GGUF 2 and 3, little endian (ggml, docs/gguf.md); raises ValueError for what is none."""
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        if at + count > len(data):
            raise _ShortError
        at += count
        return data[at - count : at]

    def unpack(code: str) -> Any:
        return struct.unpack("<" + code, take(struct.calcsize("<" + code)))[0]

    def text() -> str:
        return take(unpack("Q")).decode("utf-8", "replace")

    if take(4) != b"GGUF":
        raise ValueError(f"not a GGUF file, it begins with {data[:4]!r}")
    if (version := unpack("I")) not in (2, 3):
        raise ValueError(f"GGUF version {version} is not known")
    unpack("Q")
    keys: dict[str, Any] = {}
    for _ in range(unpack("Q")):
        key, kind = text(), unpack("I")
        if kind == TEXT:
            keys[key] = text()
        elif kind in SCALARS:
            keys[key] = unpack(SCALARS[kind])
        elif kind == ARRAY:
            kind, length = unpack("I"), unpack("Q")
            if key == "tokenizer.ggml.tokens":
                keys[key] = length
                return keys
            if kind not in SCALARS and kind != TEXT:
                raise ValueError(f"its key {key!r} is an array of the unknown type {kind}")
            if length > LONG_ARRAY and kind != TEXT:
                take(length * struct.calcsize("<" + SCALARS[kind]))  # no key of ours is that long
            else:
                keys[key] = [text() if kind == TEXT else unpack(SCALARS[kind]) for _ in range(length)]
        else:
            raise ValueError(f"its key {key!r} has the unknown type {kind}")
    return keys
