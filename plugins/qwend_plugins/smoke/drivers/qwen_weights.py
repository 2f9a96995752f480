"""What a tiny Qwen model is: its shape, its hand-set weights, its `config.json`. The same numbers every time.

Travels with `make_model`, which imports it from its own folder and writes it down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from qwen_vocabulary import END, FIRST_ADDED, Vocabulary

HIDDEN, INTERMEDIATE, EXPERT_INTERMEDIATE, HEAD_DIM, HEADS, KV_HEADS = 256, 768, 256, 64, 4, 2
EXPERTS, EXPERTS_USED = 4, 2
VOCAB, CONTEXT, ROPE_BASE, EPS = 151_936, 32_768, 1_000_000.0, 1e-6
# Channel 0 of an embedding row: how much the tied output head likes this token. Channel 1: see `_embedding`.
DULL, WORD, STOP = 0.5, 1.0, 1.4375
WORD_PATTERN = re.compile(r"Ġ[a-z]{2,9}|[.,?!]|Ċ|ĊĊ")  # byte-level spelling: Ġ is a space, Ċ a newline
COMMON_BELOW = 20_000  # low ranks are frequent merges

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
