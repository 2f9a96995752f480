"""Artifacts: content-addressed directories, what is known of them, and where they came from."""

from __future__ import annotations

from typing import Any

import msgspec

ARTIFACT_TYPES = (
    "model/safetensors",
    "model/gguf",
    "model/mlx",
    "model/awq",
    "model/gptq",
    "model/compressed-tensors",
    "model/ollama",
    "adapter/lora",
    "adapter/gguf",
    "imatrix/gguf",
    "dataset/sft",
    "dataset/text",
    "dataset/prompts",
    "results/jsonl",
    "report",
)
"""The types that edges of a recipe are checked against."""


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a model or dataset from its headers, or follows from the step that will make it.

    `parameters` counts weights, `bytes` is the size on disk, `context` the trained context length in tokens,
    `layers`, `kv_heads`, `head_dim`, `heads`, `hidden` the shape of attention, `bits` per weight, `dtype` as in
    the config (`bfloat16`, `Q4_K_M`). `base` names the model that an adapter belongs to, `template` its
    chat template's name; `rows` counts a dataset. None is unknown. `extra` is for a plugin's own facts.
    """

    architecture: str | None = None
    parameters: int | None = None
    bytes: int | None = None
    context: int | None = None
    layers: int | None = None
    kv_heads: int | None = None
    heads: int | None = None
    head_dim: int | None = None
    hidden: int | None = None
    vocabulary: int | None = None
    bits: float | None = None
    dtype: str | None = None
    base: str | None = None
    template: str | None = None
    rows: int | None = None
    extra: dict[str, Any] = {}


class PinnedFile(msgspec.Struct, frozen=True):
    """One file of a pinned source: path in the repository, size in bytes, and what its content is known by: sha256,
    or git's own digest (`oid`), where the hub tells it."""

    path: str
    size: int | None = None
    sha256: str | None = None
    oid: str | None = None
    local: str | None = None
    """Where a complete copy already lies on this machine (the user's own hub cache), if it does."""


class Pin(msgspec.Struct, frozen=True):
    """A reference with its revision fixed.

    `identity` is what counts in a fingerprint: `hf:owner/repo@<commit>`, `sha256:<hex>` of a local file's
    content, `smoke:qwen2/gguf/1`. `local` is the host path of a source that is used in place.
    """

    ref: str
    identity: str
    type: str
    files: tuple[PinnedFile, ...] = ()
    facts: Facts = Facts()
    local: str | None = None
    revision: str | None = None
    notice: str | None = None
    """A sentence that the user must see ("no hub reachable: …")."""


class StoredFile(msgspec.Struct, frozen=True):
    """One file of an artifact: path relative to it, size in bytes, sha256 (hex) of its content."""

    path: str
    size: int
    sha256: str


class Artifact(msgspec.Struct, frozen=True):
    """A content-addressed directory. `digest` is the sha256 (hex) over its sorted list of files.

    `fingerprint` names the recipe that made it: known before it existed. `location` is the host path of
    the folder; `referenced` says that the files are the user's own (never removed, never made read-only).
    """

    digest: str
    fingerprint: str
    type: str
    files: tuple[StoredFile, ...]
    size: int
    facts: Facts = Facts()
    metrics: dict[str, float] = {}
    provenance: dict[str, Any] = {}
    created: float = 0.0
    location: str = ""
    referenced: bool = False
