"""A small image folder that is built for real: no packages, one compiled-looking file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qwend.model.image import ImageSpec, load_image

TOML = """
name = "tiny"
summary = "a test's image"
licence = "Apache-2.0"
python = ">=3.11,<3.15"
entry = ["tiny"]

[flavours.cpu]
platforms = ["linux-x86_64", "linux-aarch64"]
lock = "cpu.lock"
requires = []
env = {{ GREETING = "say \\"hi\\" to $USER" }}
{more}
[build]
outputs = ["bin/tiny"]

[build.options.loud]
type = "bool"
default = false
help = "shout"

[overlay]
"share/note.txt" = "a file laid over the result"
"""

BUILD = """
mkdir -p "$PREFIX/bin"
echo "[1/2] pretending"
printf '#!/bin/sh\\necho tiny %s "$GREETING"\\n' "$OPT_LOUD" >"$PREFIX/bin/tiny"
chmod 755 "$PREFIX/bin/tiny"
echo "[2/2] done"
"""


def tiny_image(folder: Path, *, build: str = BUILD, more: str = "", **options: Any) -> ImageSpec:
    """Writes the folder (or writes it anew) and loads it."""
    (folder / "overlay" / "share").mkdir(parents=True, exist_ok=True)
    (folder / "image.toml").write_text(TOML.format(more=more))
    (folder / "cpu.lock").write_text("# nothing\n")
    # Unlike that of any other test and run: BuildKit would have it in its cache.
    (folder / "build.sh").write_text(f"{build}\n# {folder.parent.name} {os.getpid()}\n")
    (folder / "overlay" / "share" / "note.txt").write_text("hello\n")
    return load_image(folder, "cpu", options)
