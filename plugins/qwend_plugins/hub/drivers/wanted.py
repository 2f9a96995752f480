"""What is to be downloaded: the files of a pin, or the one of an address. Travels with `fetch`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

from hubs import HubError


@dataclass(frozen=True)
class Wanted:
    """One file: where it goes below the output folder, and how it is known to be right."""

    path: str
    size: int | None
    sha256: str | None = None
    oid: str | None = None
    local: str | None = None

    @classmethod
    def parse(cls, row: Any) -> Wanted:
        wanted = cls(**{key: row.get(key) for key in ("path", "size", "sha256", "oid", "local")})
        parts = PurePosixPath(wanted.path).parts
        if (
            not parts
            or ".." in parts
            or wanted.path.startswith("/")
            or "\\" in wanted.path
            or "\0" in wanted.path
        ):
            raise HubError(
                "bad-reference", f"the pin names the file {wanted.path!r}, which may not be written"
            )
        return wanted


def read_pin(path: Path) -> tuple[str, str, list[Wanted]]:
    """Reference, revision and files of a pin."""
    try:
        pin = json.loads(path.read_text(encoding="utf-8"))
        return str(pin["ref"]), str(pin["revision"]), [Wanted.parse(row) for row in pin["files"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HubError("bad-reference", f"--pin {path}: no pin ({type(error).__name__}: {error})") from None


def read_url(text: str) -> tuple[str, Wanted]:
    """URL and file of ``https://…#sha256=…``."""
    url, fragment = urldefrag(text)
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    digest = fragment.removeprefix("sha256=")
    if not name or len(digest) != 64 or not fragment.startswith("sha256="):
        raise HubError(
            "bad-reference", f"{text!r} is no download", "write https://host/file#sha256=<64 digits>"
        )
    return url, Wanted.parse({"path": name, "size": None, "sha256": digest.lower()})
