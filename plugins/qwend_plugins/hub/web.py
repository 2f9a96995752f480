"""The source `https:`: one file of the web, known by its sha256."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    ImageRef,
    Launch,
    OutputRef,
    Pin,
    PinnedFile,
    Question,
    Resolution,
    ScratchRef,
    UsageError,
)
from qwend_plugins.hub.hubs import MODULES, drivers, image
from qwend_plugins.hub.kinds import ARCHIVES, PICKLES, dataset_kind, refused_pickle

_REFERENCE = re.compile(r"https://[^\s/?#\0-\x1f]+/[^\s#\0-\x1f]*#sha256=(?P<digest>[0-9a-f]{64})")


class Web:
    """Pinned at once: whatever the address gives is refused unless it has the hash."""

    scheme: ClassVar[str] = "https"
    summary: ClassVar[str] = "A file of the web, with its sha256 behind a #"
    revision: ClassVar[int] = 1
    examples: ClassVar[tuple[str, ...]] = (f"https://example.org/model.gguf#sha256={'0' * 64}",)

    def check(self, reference: str) -> Iterable[Finding]:
        if len(reference) > 4096 or not _REFERENCE.fullmatch(reference):
            yield Finding("https: takes //HOST/PATH#sha256= and 64 hexadecimal digits (lower case)")
        elif not _name(reference):
            yield Finding("the address names no file")

    def resolve(self, reference: str, options: dict[str, Any], host: Host) -> Resolution:
        match, name = _REFERENCE.fullmatch(reference), _name(reference)
        if match is None:
            raise UsageError("https: takes //HOST/PATH#sha256= and 64 hexadecimal digits")
        pin = Pin(
            ref=reference,
            identity=f"sha256:{match['digest']}",
            type=str(options.get("type") or _kind(name, options)),
            files=(PinnedFile(name, sha256=match["digest"]),),
        )
        return Resolution(pin=pin)

    def fetch(self, pin: Pin, options: dict[str, Any], host: Host) -> Question | None:
        launch = Launch(
            argv=(
                *(ImageRef("bin/python"), DriverRef("fetch.py"), "--url", pin.ref),
                *("--out", OutputRef(), "--partial", ScratchRef("partial")),
            ),
            files=drivers("fetch.py", "wanted.py", *MODULES),
            network=True,
            resumable=True,
        )
        return Question(image(), launch)


def _name(reference: str) -> str:
    return PurePosixPath(unquote(urlsplit(reference).path)).name


def _kind(name: str, options: dict[str, Any]) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in PICKLES and not options.get("allow_pickle"):
        raise refused_pickle(name)
    if suffix in ARCHIVES:
        raise UsageError(f"{name} is an archive", hint="unpack it and give the folder as file:")
    if options.get("kind") == "dataset":
        kind = dataset_kind(suffix, options)
        if kind is not None:
            return kind
    elif suffix == ".gguf":
        return "model/gguf"
    elif suffix == ".safetensors" or suffix in PICKLES:
        return "model/safetensors"
    raise UsageError(f"what {name} is cannot be told from its name", hint="say type: beside from:")
