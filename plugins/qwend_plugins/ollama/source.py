"""The source `ollama:`: a model of Ollama's library, pinned to the digest of its manifest and used where it lies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, ClassVar

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    ImageRef,
    Launch,
    LaunchFile,
    OutputRef,
    Pin,
    Question,
    Resolution,
    load_image,
)
from qwend_plugins.ollama.common import files

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
_REFERENCE = re.compile(rf"ollama:(?:{_PART}/){{0,2}}{_PART}(?::{_PART})?")


class OllamaModels:
    """Nothing is copied: the artifact holds the name and the digest, and the server the weights."""

    scheme: ClassVar[str] = "ollama"
    summary: ClassVar[str] = "A model of Ollama's library, used in place where this machine's Ollama holds it"
    revision: ClassVar[int] = 1
    examples: ClassVar[tuple[str, ...]] = ("ollama:qwen2.5:0.5b", "ollama:qwen3")

    def check(self, reference: str) -> Iterable[Finding]:
        if not _REFERENCE.fullmatch(reference):
            yield Finding("ollama: takes name or name:tag, as in ollama:qwen3:0.6b")

    def resolve(self, reference: str, options: dict[str, Any], host: Host) -> Resolution:
        launch = Launch(
            argv=(ImageRef("bin/python"), DriverRef("ollama_resolve.py"), reference),
            files=files("ollama_resolve.py", "ollama_start.py"),
            network=True,
        )
        return Resolution(
            question=Question(load_image("qwend_images:ollama", "cpu"), launch), type="model/ollama"
        )

    def fetch(self, pin: Pin, options: dict[str, Any], host: Host) -> Question | None:
        said = json.dumps({"name": _name(pin.ref), "digest": pin.revision}, sort_keys=True)
        launch = Launch(
            argv=(
                ImageRef("bin/python"),
                DriverRef("ollama_keep.py"),
                DriverRef("ollama.json"),
                OutputRef("ollama.json"),
            ),
            files=(*files("ollama_keep.py"), LaunchFile("ollama.json", said + "\n")),
        )
        return Question(load_image("qwend_images:ollama", "cpu"), launch)


def _name(reference: str) -> str:
    """The name with its tag, as a server lists it."""
    body = reference.partition(":")[2]
    return body if ":" in body.rpartition("/")[2] else f"{body}:latest"
