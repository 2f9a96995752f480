"""Configurations that transformers 4 and 5 read alike.

Standard library only; runs inside an image and imports nothing of qwend. transformers 5 writes the base of the rotary
positions under ``rope_parameters`` alone, where 4 looks for ``rope_theta`` and silently takes 10,000 (a Qwen has a
million): another model. A list under ``extra_special_tokens`` breaks 4 outright. 5 reads the older names too, so both
are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Rewrite = Callable[[dict[str, Any]], dict[str, Any]]
CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"
_OF_ONE_RUN = ("is_local", "local_files_only")
"""What 5 keeps of how a tokenizer was loaded."""


def config_both(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a model with the names of 4 beside those of 5."""
    found = dict(config)
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and isinstance(rope.get("rope_theta"), (int, float)):
        found.setdefault("rope_theta", rope["rope_theta"])
        rest = {name: value for name, value in rope.items() if name != "rope_theta"}
        if rest.get("rope_type", "default") != "default" and not found.get("rope_scaling"):
            found["rope_scaling"] = rest
    if isinstance(config.get("dtype"), str):
        found.setdefault("torch_dtype", config["dtype"])
    return found


def config_older(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration by the names of 4 alone: 4 hands on what it does not know, and a `dtype` that it did not change
    would then contradict the `torch_dtype` that it did."""
    found = config_both(config)
    if "torch_dtype" in found:
        found.pop("dtype", None)
    if "rope_theta" in found:
        found.pop("rope_parameters", None)
    return found


def tokenizer_both(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a tokenizer by the names of 4."""
    found = {name: value for name, value in config.items() if name not in _OF_ONE_RUN}
    if isinstance(found.get("extra_special_tokens"), list):
        extra = found.pop("extra_special_tokens")
        found.setdefault("additional_special_tokens", extra)
    return found


def changed(folder: Path, config_as: Rewrite = config_both) -> dict[str, str]:
    """Name and new text of each configuration in a checkpoint's folder that is not as it should be."""
    found = {}
    for name, both in ((CONFIG, config_as), (TOKENIZER, tokenizer_both)):
        path = folder / name
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if isinstance(config, dict) and both(config) != config:
            found[name] = json.dumps(both(config), indent=2, ensure_ascii=False) + "\n"
    return found


def write_both_ways(folder: Path) -> None:
    """Rewrites in place what only one of the two would read rightly."""
    for name, text in changed(folder).items():
        (folder / name).write_text(text, encoding="utf-8")


def for_older(source: Path, scratch: Path) -> Path:
    """The checkpoint itself if 4 wrote it, else a folder of links to its files with what differs rewritten."""
    rewritten = changed(source, config_older)
    if not rewritten:
        return source
    scratch.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        target = scratch / path.name
        target.unlink(missing_ok=True)
        if path.name in rewritten:
            target.write_text(rewritten[path.name], encoding="utf-8")
        else:
            target.symlink_to(path.absolute())
    return scratch
