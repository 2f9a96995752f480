"""What every quantising driver does at the end: keep the files of the source that quantising does not touch, and check.

Runs inside an image and imports nothing of qwend.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from both_ways import write_both_ways

KEPT = (
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
)
"""Of the source, byte for byte: libraries rewrite them, and not every reader takes what another version wrote."""


def carry_over(source: Path, out: Path) -> None:
    """Lay the source's own tokenizer, template and licence over what was written, and let older readers read it."""
    if (source / "tokenizer_config.json").is_file():
        for name in ("added_tokens.json", "special_tokens_map.json", "chat_template.jinja"):
            if not (source / name).is_file():
                (out / name).unlink(missing_ok=True)
    for name in KEPT:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    write_both_ways(out)


def readable(out: Path) -> None:
    """Some libraries write weights that only their owner may read."""
    for path in out.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def become_reload(args: argparse.Namespace, library: str) -> None:
    """Replace this process by the check of the result: all memory of the quantiser is free by then."""
    script = Path(__file__).parent / "q_reload.py"
    words = [
        sys.executable,
        str(script),
        str(args.options),
        "--source",
        str(args.source),
        "--out",
        str(args.out),
    ]
    words += ["--library", library, "--device", args.device]
    words += ["--trust-remote-code"] if args.trust_remote_code else []
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, words)
