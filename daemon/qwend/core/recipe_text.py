"""A recipe's text before it is YAML: decoding, and which variables it mentions.

The client imports this module, so it is light: no YAML, no pydantic.
"""

from __future__ import annotations

import codecs
import re

import msgspec

from qwend.core.wording import show
from qwend.errors import UsageError

MAX_BYTES = 4 * 1024 * 1024

_MENTION = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*))")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark begins it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class RecipeFile(msgspec.Struct, frozen=True):
    """One file of a recipe: its path as the user gave it (for messages only) and its text."""

    path: str
    text: str


def decode(data: bytes, path: str) -> str:
    """The text of a recipe file: UTF-8, or UTF-16 or UTF-32 with a byte order mark. Raises UsageError."""
    if len(data) > MAX_BYTES:
        raise too_large(path)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise UsageError(
            f"this is not {encoding.removesuffix('-sig').upper()} text (byte 0x{data[error.start]:02x})",
            code="bad-encoding",
            where=f"{show(path)}:{line}:{column}",
            hint="save the recipe as UTF-8",
        ) from None


def checked(file: RecipeFile) -> str:
    """The text without a byte order mark. Raises UsageError if it is too long or is no YAML."""
    if len(file.text) > MAX_BYTES:
        raise too_large(file.path)
    text = file.text.removeprefix("\ufeff")
    bad = _UNPRINTABLE.search(text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        raise UsageError(
            f"the character {show(bad[0])} is not allowed in YAML",
            code="bad-character",
            where=f"{show(file.path)}:{line}:{column}",
            hint='inside double quotes it may be written as an escape, such as "\\x1b"',
        )
    return text


def variables(text: str) -> tuple[str, ...]:
    """The names that a text mentions as `${NAME…}`, sorted; comments count too, which does no harm."""
    return tuple(sorted({match[1] for match in _MENTION.finditer(text) if match[1]}))


def too_large(path: str) -> UsageError:
    return UsageError(
        f"a recipe may take {MAX_BYTES // 1024 // 1024} MiB at most",
        code="recipe-too-large",
        where=show(path),
        hint="put data into files of its own and name them under datasets:",
    )
