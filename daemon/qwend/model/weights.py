"""What model files say of themselves: the type of an artifact and its `Facts`, from headers and config.json.

Only headers are read, never weights, so this is cheap for any size. Malformed files raise `HeaderError` (a
ValueError) whose text begins with the file's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qwend.model.artifact import Facts
from qwend.model.gguf import FILE_TYPES, read_gguf
from qwend.model.headers import Header, HeaderError, LongArray, read_safetensors

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.(?:gguf|safetensors)$")
_MAX_CONFIG = 4 * 1024**2
_PACKED = re.compile(r"\.(qweight|weight_packed)$")
_SCALES = re.compile(r"\.(qzeros|scales|g_idx|weight_scale|weight_zero_point|weight_shape|biases)$")
_METHODS = {
    "awq": "model/awq",
    "gptq": "model/gptq",
    "compressed-tensors": "model/compressed-tensors",
    "fp8": "model/safetensors",
}


def look(path: Path) -> tuple[str, Facts]:
    """Artifact type and facts of a GGUF file, a safetensors file, or a folder that holds a model or adapter.

    Raises HeaderError for a malformed or incomplete model, OSError for an unreadable one.
    """
    if path.is_dir():
        return _look_into(path)
    if path.suffix == ".gguf":
        return look_at_gguf([path])
    if path.suffix == ".safetensors":
        return "model/safetensors", checkpoint_facts({}, [_header(path)])
    raise HeaderError(f"{path.name}: neither a GGUF nor a safetensors file")


def look_at_gguf(paths: list[Path]) -> tuple[str, Facts]:
    """The same for the shards of one GGUF model, first shard first."""
    headers = [_header(path) for path in paths]
    total = headers[0].metadata.get("split.count", 1)
    if isinstance(total, int) and total > len(paths) and len(paths) > 1:
        raise HeaderError(f"{paths[0].name}: {total} shards belong to it, {len(paths)} are here")
    kind = headers[0].metadata.get("general.type", "model")
    type_ = {"adapter": "adapter/gguf", "imatrix": "imatrix/gguf"}.get(str(kind), "model/gguf")
    return type_, gguf_facts(headers)


def gguf_facts(headers: list[Header]) -> Facts:
    """Facts of one GGUF model from the headers of its shards; only the first needs metadata."""
    meta, tensors = headers[0].metadata, Header({}, tuple(t for header in headers for t in header.tensors))
    architecture = _text(meta.get("general.architecture"))

    def number(key: str) -> int | None:
        value = meta.get(f"{architecture}.{key}")
        if isinstance(value, list) and value:  # one per layer: the largest bounds the memory
            value = max((item for item in value if isinstance(item, int)), default=None)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    heads, hidden = number("attention.head_count"), number("embedding_length")
    vocabulary = meta.get("tokenizer.ggml.tokens")
    file_type = FILE_TYPES.get(meta.get("general.file_type", -1)) or _most(tensors)
    template = meta.get("tokenizer.chat_template")
    return Facts(
        architecture=architecture,
        parameters=tensors.parameters or None,
        bytes=tensors.tensor_bytes or None,
        context=number("context_length"),
        layers=number("block_count"),
        kv_heads=number("attention.head_count_kv") or heads,
        heads=heads,
        head_dim=number("attention.key_length") or (hidden // heads if hidden and heads else None),
        hidden=hidden,
        vocabulary=vocabulary.length if isinstance(vocabulary, LongArray) else number("vocab_size"),
        bits=_rounded(tensors.bits_per_weight),
        dtype=file_type,
        template=template_name(template) if isinstance(template, str) else None,
        extra={"tensor_types": dict(sorted(tensors.dtypes.items()))} if tensors.tensors else {},
    )


def checkpoint_facts(
    config: Mapping[str, Any], headers: Iterable[Header], template: str | None = None
) -> Facts:
    """Facts of a checkpoint from its ``config.json`` and the headers of its safetensors shards.

    Packed weights (GPTQ, AWQ, compressed-tensors) are counted as the weights they stand for.
    """
    whole = Header({}, tuple(t for header in headers for t in header.tensors))
    text = config.get("text_config")
    shape: Mapping[str, Any] = (
        text if isinstance(text, dict) else config
    )  # vision models nest the language model

    def number(key: str) -> int | None:
        value = shape.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    bits = _quantised_bits(config)
    packed = {_PACKED.sub("", t.name) for t in whole.tensors if _PACKED.search(t.name)}
    parameters = 0
    for tensor in whole.tensors:
        if _PACKED.search(tensor.name):
            parameters += 8 * (tensor.size or 0) // (bits or 4)
        elif not (packed and _SCALES.search(tensor.name) and _SCALES.sub("", tensor.name) in packed):
            parameters += tensor.elements
    heads, hidden = number("num_attention_heads"), number("hidden_size")
    dtype = config.get("torch_dtype") or config.get("dtype") or shape.get("dtype")
    return Facts(
        architecture=_text(config.get("model_type")),
        parameters=parameters or None,
        bytes=whole.tensor_bytes or None,
        context=number("max_position_embeddings"),
        layers=number("num_hidden_layers"),
        kv_heads=number("num_key_value_heads") or heads,
        heads=heads,
        head_dim=number("head_dim") or (hidden // heads if hidden and heads else None),
        hidden=hidden,
        vocabulary=number("vocab_size"),
        bits=_rounded(8 * whole.tensor_bytes / parameters) if parameters else None,
        dtype=_text(dtype) or (_most(whole) or "").lower() or None,
        template=template_name(template) if template else None,
    )


def checkpoint_type(config: Mapping[str, Any]) -> str:
    """The artifact type that ``config.json`` tells: plain safetensors, or what it was quantised with."""
    quantised = config.get("quantization_config")
    if isinstance(quantised, dict):
        return _METHODS.get(str(quantised.get("quant_method")), "model/safetensors")
    return "model/mlx" if isinstance(config.get("quantization"), dict) else "model/safetensors"


def template_name(template: str) -> str:
    """`chatml` for Qwen's format, else `custom`."""
    return "chatml" if "<|im_start|>" in template else "custom"


def _look_into(folder: Path) -> tuple[str, Facts]:
    """A folder: an adapter, a checkpoint, or the shards of one GGUF model, in this order."""
    if (folder / "adapter_config.json").is_file():
        adapter = _json(folder / "adapter_config.json")
        headers = [_header(path) for path in sorted(folder.glob("adapter_model*.safetensors"))]
        if not headers:
            raise HeaderError(
                f"{folder.name}: it has an adapter_config.json and no adapter_model.safetensors"
            )
        facts = checkpoint_facts({}, headers)
        base = adapter.get("base_model_name_or_path")
        return "adapter/lora", Facts(parameters=facts.parameters, bytes=facts.bytes, base=_text(base))
    found = sorted(path for path in folder.glob("*.gguf") if not path.name.startswith("mmproj"))
    if (folder / "config.json").is_file():
        config = _json(folder / "config.json")
        shards = _shards(folder)
        if shards:
            return checkpoint_type(config), checkpoint_facts(config, map(_header, shards), _template(folder))
        if not found:
            raise HeaderError(f"{folder.name}: it has a config.json and no weights (*.safetensors)")
    first = [path for path in found if not (shard := _SHARD.search(path.name)) or int(shard[1]) == 1]
    if len(first) != 1:
        raise HeaderError(
            f"{folder.name}: expected one model, found {len(first)} GGUF files and no config.json"
        )
    return look_at_gguf(found if _SHARD.search(first[0].name) else first)


def _shards(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint; those that its index names must all be there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    named = _json(index).get("weight_map")
    names = set(named.values()) if isinstance(named, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise HeaderError(f"{index.name}: weight_map should map weights to files of this folder")
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise HeaderError(f"{index.name}: {missing[0]}{more} of {len(names)} files missing")
    return [folder / name for name in sorted(names)]


def _header(path: Path) -> Header:
    with path.open("rb") as file:
        try:
            return read_gguf(file) if path.suffix == ".gguf" else read_safetensors(file)
        except HeaderError as error:
            raise HeaderError(f"{path.name}: {error}") from None


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_CONFIG and path.suffixes[-2:] != [".index", ".json"]:
        raise HeaderError(f"{path.name}: larger than {_MAX_CONFIG} bytes")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise HeaderError(f"{path.name}: no JSON") from None
    if not isinstance(value, dict):
        raise HeaderError(f"{path.name}: no JSON object")
    return value


def _template(folder: Path) -> str | None:
    """The chat template of a checkpoint, from its own file or the tokenizer's configuration."""
    own = folder / "chat_template.jinja"
    if own.is_file() and own.stat().st_size <= _MAX_CONFIG:
        return own.read_text(encoding="utf-8", errors="replace")
    tokenizer = folder / "tokenizer_config.json"
    if not tokenizer.is_file():
        return None
    found = _json(tokenizer).get("chat_template")
    if isinstance(found, list):  # several named ones: the first is the default
        found = found[0].get("template") if found and isinstance(found[0], dict) else None
    return found if isinstance(found, str) else None


def _quantised_bits(config: Mapping[str, Any]) -> int | None:
    quantised = config.get("quantization_config")
    if not isinstance(quantised, dict):
        return None
    bits = quantised.get("bits") or quantised.get("w_bit")
    groups = quantised.get("config_groups")
    if bits is None and isinstance(groups, dict):
        weights = [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        bits = next((w.get("num_bits") for w in weights if isinstance(w, dict)), None)
    return bits if isinstance(bits, int) and 0 < bits <= 16 else None


def _most(header: Header) -> str | None:
    """The type that holds most of the bytes."""
    sizes: dict[str, int] = {}
    for tensor in header.tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + (tensor.size or 0)
    return max(sizes, key=lambda dtype: sizes[dtype], default=None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
