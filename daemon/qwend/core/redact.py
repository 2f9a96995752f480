"""Takes secrets out of whatever is written or shown: logs, errors, events, provenance, `inspect`. Pure.

`redact` knows secrets by their looks (tokens of the hubs, `Authorization`, passwords in addresses, names that
smell of secrets); a `Redactor` also knows their values. Both are idempotent: `***` stays `***`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"

_SHORTEST = 4
"""A shorter value is hidden only where it stands as a word of its own: `a` would eat every text."""
_LINE = 8
"""Lines of a value of many lines (a PEM key) are hidden one by one from this length on."""

_TRAILING = {
    *("token", "secret", "password", "passwd", "passphrase", "pwd", "credential", "credentials", "apikey"),
    *("authorization", "cookie", "signature", "sig", "bearer"),
}
_BEFORE_KEY = {
    *("api", "access", "secret", "private", "auth", "encryption", "signing", "license", "session", "ssh"),
    *(
        "account",
        "service",
        "client",
        "master",
        "shared",
        "hub",
        "hf",
        "openai",
        "modelscope",
        "subscription",
    ),
}
_VOCABULARY = {
    *("pad", "bos", "eos", "unk", "sep", "cls", "mask", "eot", "eom", "fim", "prefix", "suffix", "middle"),
    *(
        "image",
        "video",
        "audio",
        "vision",
        "special",
        "stop",
        "start",
        "end",
        "think",
        "tool",
        "first",
        "new",
    ),
    *("next", "last", "per", "chat", "sop", "decoder", "forced", "begin", "each", "one", "box", "im"),
}
"""Before `token` these make the name of a token of a vocabulary, which is no secret."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def smells(name: str) -> bool:
    """Whether a variable, parameter or header of this name holds a secret (`HF_TOKEN`, `apiKey`).

    Only the last words count: `SECRET_FILE` names a file, `max_tokens` a number, `eos_token` a word.
    """
    words = [word.lower() for word in _WORDS.findall(name[-256:])]
    if not words:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last == "token":
        return before not in _VOCABULARY
    if last == "key":
        return before in _BEFORE_KEY or (name.isupper() and before not in {"", "sort", "primary", "public"})
    return last in _TRAILING


_HINT = re.compile(
    r"://|token|secret|passw|passphrase|pwd|key|auth|bearer|cookie|sig|cred|hf_|sk-|gh[a-z]_|github_pat_|ms-|"
    r"eyJ|AKIA|PRIVATE",
    re.IGNORECASE,
)
"""A text without any of these holds nothing that the patterns below would find: most lines of a log."""

_LOOKS = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        HIDDEN,
    ),
    (re.compile(r"(?<![A-Za-z0-9_])hf_(?=[A-Za-z0-9]*[0-9A-Z])[A-Za-z0-9]{8,}"), HIDDEN),
    (re.compile(r"(?<![A-Za-z0-9_-])sk-(?=[A-Za-z0-9_-]*[0-9])[A-Za-z0-9_-]{12,}"), HIDDEN),
    (re.compile(r"(?<![A-Za-z0-9_])(?:gh[oprsu]_|github_pat_)[A-Za-z0-9_]{16,}"), HIDDEN),
    (re.compile(r"(?<![A-Za-z0-9-])ms-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), HIDDEN),
    (re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), HIDDEN),
    (re.compile(r"(?<![A-Za-z0-9])AKIA[0-9A-Z]{16}"), HIDDEN),
    (re.compile(r"(?<=://)[^\s/@'\"<>]{1,512}@"), HIDDEN + "@"),
    (
        re.compile(
            r"(\b(?:proxy-)?authorization\b[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic|token|digest)\s+)?[^\s\"',]+",
            re.IGNORECASE,
        ),
        r"\1" + HIDDEN,
    ),
    (re.compile(r"(\b(?:set-)?cookie\b[\"']?\s*:\s*[\"']?)[^\n\"']+", re.IGNORECASE), r"\1" + HIDDEN),
    (re.compile(r"(\bbearer\s+)(?!\*)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), r"\1" + HIDDEN),
)
_QUERY = re.compile(r"([?&;])([A-Za-z0-9_.%-]{1,64})=([^&;\s#\"'<>]+)")
_ASSIGNED = re.compile(
    r"(?<![A-Za-z0-9_?&;-])([A-Za-z_][A-Za-z0-9_.-]{1,127})(=)(\"[^\"]*\"|'[^']*'|[^\s\"',;&]+)"
)
_HEADER = re.compile(r"(?<![A-Za-z0-9_-])([A-Za-z][A-Za-z0-9-]{2,63})(: ?)([^\s\"',]+)")
_OPTION = re.compile(r"(?<!\S)(--?[A-Za-z][A-Za-z0-9_-]{2,63})(=| +)(\"[^\"]*\"|'[^']*'|[^\s-]\S*)")
_MEMBER = re.compile(
    r"([\"'])([A-Za-z_][A-Za-z0-9_. -]{1,127})(\1\s*:\s*)(\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')"
)


def redact(text: str) -> str:
    """`text` with everything that looks like a secret replaced by `***`."""
    if not _HINT.search(text):
        return text
    for pattern, instead in _LOOKS:
        text = pattern.sub(instead, text)
    text = _QUERY.sub(_query, text)
    text = _MEMBER.sub(_member, text)
    text = _OPTION.sub(_named, text)
    text = _ASSIGNED.sub(_named, text)
    return _HEADER.sub(_named, text)


def _query(match: re.Match[str]) -> str:
    name = match[2]
    hidden = smells(name) or name.lower() in {"key", "auth", "code"}
    return f"{match[1]}{name}={HIDDEN}" if hidden else match[0]


def _member(match: re.Match[str]) -> str:
    quoted = match[4]
    return f"{match[1]}{match[2]}{match[3]}{quoted[0]}{HIDDEN}{quoted[0]}" if smells(match[2]) else match[0]


def _named(match: re.Match[str]) -> str:
    value = match[3]
    around = value[0] if value[0] in "\"'" else ""
    return f"{match[1]}{match[2]}{around}{HIDDEN}{around}" if smells(match[1]) else match[0]


class Redactor:
    """Hides the given values, in the forms in which they turn up, and whatever looks like a secret."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Learns more values; from now on they are hidden."""
        new = {value for value in values if value.strip()} - self._values
        if not new:
            return
        self._values |= new
        forms = {form for value in self._values for form in _forms(value)}
        long = sorted((form for form in forms if len(form) >= _SHORTEST), key=lambda form: (-len(form), form))
        short = sorted(form for form in forms if len(form) < _SHORTEST)
        parts = [re.escape(form) for form in long]
        parts += [rf"(?<![A-Za-z0-9_]){re.escape(form)}(?![A-Za-z0-9_])" for form in short]
        self._pattern = re.compile("|".join(parts))

    def text(self, text: str) -> str:
        """`text` without secrets."""
        if self._pattern is not None:
            text = self._pattern.sub(HIDDEN, text)
        return redact(text)

    def bytes(self, data: bytes) -> bytes:
        """The same for a piece of a log (whole lines: a secret cut in two is not recognised)."""
        text = data.decode("utf-8", "surrogateescape")
        return self.text(text).encode("utf-8", "surrogateescape")

    def env(self, env: Mapping[str, str]) -> dict[str, str]:
        """An environment: values of names that smell are hidden whole."""
        return {name: HIDDEN if smells(name) and value else self.text(value) for name, value in env.items()}

    def argv(self, argv: Iterable[str]) -> tuple[str, ...]:
        """A command line: also the word after an option that smells (`--api-key X`)."""
        words: list[str] = []
        hide = False
        for word in argv:
            if hide and not word.startswith("--"):
                words.append(HIDDEN)
                hide = False
                continue
            option, equals, value = word.partition("=")
            smelly = option.startswith("-") and smells(option)
            hide = smelly and not equals
            words.append(f"{option}={HIDDEN}" if smelly and equals and value else self.text(word))
        return tuple(words)

    def value(self, value: Any, name: str = "") -> Any:
        """JSON data: strings by their looks and values, members by their names; numbers stay."""
        match value:
            case str():
                return HIDDEN if value and smells(name) else self.text(value)
            case dict():
                return {self._key(key): self.value(item, str(key)) for key, item in value.items()}
            case list() | tuple():
                return type(value)(self.value(item, name) for item in value)
            case _:
                return value

    def _key(self, key: Any) -> Any:
        return self.text(key) if isinstance(key, str) else key


def _forms(value: str) -> Iterable[str]:
    """The forms in which a secret turns up: as it is, percent-encoded, in JSON, in base 64, by line."""
    import json

    yield value
    stripped = value.strip()
    yield stripped
    yield quote(stripped, safe="")
    yield quote_plus(stripped)
    yield json.dumps(stripped)[1:-1]
    yield json.dumps(stripped, ensure_ascii=False)[1:-1]
    if len(stripped) >= _SHORTEST:
        encoded = stripped.encode("utf-8", "surrogateescape")
        yield base64.b64encode(encoded).decode().rstrip("=")
        yield base64.urlsafe_b64encode(encoded).decode().rstrip("=")
    lines = stripped.splitlines()
    if len(lines) > 1:
        yield from (line.strip() for line in lines if len(line.strip()) >= _LINE)
