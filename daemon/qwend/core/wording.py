"""How a value from a user is shown in a message: short, quoted, and unable to break a terminal. Pure."""

from __future__ import annotations


def show(text: str, limit: int = 80) -> str:
    """`text` on one line, what a terminal would obey spelled out (`\\x1b`), cut after `limit` characters."""
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(_escape(char) for char in cut)
    return cut + "…" if len(text) > limit else cut


def quote(text: str, limit: int = 80) -> str:
    """`show` in double quotes."""
    return '"' + show(text, limit).replace('"', '\\"') + '"'


def value(given: object, limit: int = 80) -> str:
    """A value of a recipe as its writer would recognise it."""
    match given:
        case None:
            return "nothing"
        case bool():
            return "true" if given else "false"
        case str():
            return quote(given, limit)
        case int() | float():
            return number(given)
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return show(str(given), limit)


def number(given: float) -> str:
    """A number as one writes it in a recipe: `1e-5`, not `1e-05`."""
    text = repr(given)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        return f"{mantissa}e{int(exponent)}"
    return text


def listing(words: list[str], last: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def _escape(char: str) -> str:
    if char.isprintable():  # which no control, bidirectional override, surrogate or odd space is
        return char
    known = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char)
    if known:
        return known
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
