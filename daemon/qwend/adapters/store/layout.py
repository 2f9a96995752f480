"""Where things are in the store, how names are written down, and what an artifact's digest is."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable

from qwend.errors import QwendError
from qwend.model.artifact import StoredFile

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_OBEYED = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Control and format characters and line separators: what a terminal or a list of lines would obey."""


class Layout:
    """The folders of one store."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.objects = os.path.join(self.root, "objects")
        self.views = os.path.join(self.root, "views")
        self.manifests = os.path.join(self.root, "manifests")
        self.work = os.path.join(self.root, "work")
        self.published = os.path.join(self.root, "published")
        self.quarantine = os.path.join(self.root, "quarantine")
        self.staging = os.path.join(self.root, "staging")
        self.cache = os.path.join(self.root, "cache.db")

    def make(self) -> None:
        """Makes the folders that are missing."""
        for folder in (
            self.objects, self.views, self.manifests, self.work, self.published, self.quarantine, self.staging
        ):  # fmt: skip
            os.makedirs(folder, mode=0o700, exist_ok=True)

    def object(self, digest: str) -> str:
        return os.path.join(self.objects, checked(digest))

    def view(self, digest: str) -> str:
        return os.path.join(self.views, checked(digest))

    def manifest(self, fingerprint: str) -> str:
        return os.path.join(self.manifests, f"{checked(fingerprint)}.json")

    def work_of(self, fingerprint: str) -> str:
        return os.path.join(self.work, checked(fingerprint))

    def sealed(self, fingerprint: str) -> str:
        """The manifest of an output that is complete and on the disk, but not yet in its place."""
        return os.path.join(self.work_of(fingerprint), "sealed.json")

    def stage(self) -> str:
        """A new name in the staging folder."""
        return os.path.join(self.staging, os.urandom(8).hex())


def checked(name: str) -> str:
    """A digest or fingerprint as the name of a file; what could lead elsewhere is refused."""
    if not _NAME.fullmatch(name):
        raise QwendError(f"{escape(name)[:80]} is no digest or fingerprint", code="bad-name")
    return name


def escape(path: str) -> str:
    """A file's name as it is written down and shown: bytes that are no text as `\\xff`, characters that a terminal
    would obey as `\\x1b` or `\\u202e`, a backslash as two. `unescape` is its inverse."""
    if path.isascii() and path.isprintable() and "\\" not in path:
        return path
    return "".join(_escaped(char) for char in path)


def unescape(text: str) -> str:
    """The name of a file as the system knows it (str with surrogates, as `os.fsdecode` gives)."""
    return _ESCAPE.sub(_meant, text) if "\\" in text else text


def _escaped(char: str) -> str:
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(char) not in _OBEYED:
        return char
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _meant(match: re.Match[str]) -> str:
    if match[1] == "\\":
        return "\\"
    code = int(match[1][1:], 16)
    return chr(0xDC00 + code if match[1][0] == "x" and code >= 0x80 else code)


def digest_of(files: Iterable[StoredFile]) -> str:
    """The digest of an artifact: sha256 (hex) over a line for each file, sorted by path."""
    total = hashlib.sha256(b"qwend artifact 1\n")
    for file in sorted(files, key=lambda file: file.path):
        total.update(f"{file.sha256} {file.size} {file.path}\n".encode())
    return total.hexdigest()


def in_object(folder: str, path: str) -> str:
    """The file's own path below an artifact's folder, from its escaped path."""
    parts = unescape(path).split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise QwendError(f"{path} does not stay inside its artifact", code="bad-path")
    return os.path.join(folder, *parts)
