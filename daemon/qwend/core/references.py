"""How a recipe names things: `quant[Q8_0]` (steps), `hf:owner/repo@rev/file` (sources). Syntax only. Pure."""

from __future__ import annotations

import posixpath
import re

import msgspec

from qwend.core.suggest import did_you_mean
from qwend.core.wording import number, quote, show

SCHEMES = ("hf", "modelscope", "ollama", "file", "https", "smoke")
"""The schemes that qwend itself documents; plugins may bring more."""

_NAME = re.compile(r"([a-z][a-z0-9_]{0,63})(?:\[([^\[\]]{1,64})\])?")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,31}):(.*)", re.DOTALL)
_LABEL = re.compile(r"[A-Za-z0-9._+-]{1,64}(?:,[A-Za-z0-9._+-]{1,64})*")
_REPO_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})"
_HUB = re.compile(
    rf"(?P<owner>{_REPO_PART})/(?P<repo>{_REPO_PART})(?:@(?P<revision>[A-Za-z0-9._-]{{1,128}}))?"
    r"(?:/(?P<file>[^?#]+))?(?:\?(?P<query>[^#]*))?"
)
_SMOKE = re.compile(r"[a-z][a-z0-9_-]{0,31}(?:\?[a-z0-9=&_./-]*)?")
_OLLAMA = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+){0,3}(?::[A-Za-z0-9._-]{1,128})?")
_HTTPS = re.compile(r"//[^\s/?#]+/[^\s#]*#sha256=[0-9a-f]{64}")
_FILES = (".gguf", ".safetensors", ".json", ".jsonl", ".txt", ".csv", ".parquet", ".arrow", ".raw")
_LONGEST = 4096


class StepName(msgspec.Struct, frozen=True):
    """A name as `from:` and `needs:` use it: `quant`, or one value of its matrix, `quant[Q8_0]`."""

    name: str
    label: str | None = None


class SourceRef(msgspec.Struct, frozen=True):
    """A reference to a model or data: scheme and what follows its colon."""

    scheme: str
    body: str


def parse_name(text: str) -> StepName:
    """`quant` or `quant[Q8_0]`. Raises ValueError, with what to do about it."""
    match = _NAME.fullmatch(text)
    if match:
        return StepName(match[1], match[2])
    if _SCHEME.fullmatch(text):
        raise ValueError(
            f"{quote(text)} is a reference; give it a name under models: or datasets: and use the name"
        )
    raise ValueError(f"{quote(text)} is no name; names are like base, q4 or quant[Q8_0]")


def label(value: object) -> str:
    """What stands between the brackets for a value of a matrix: `Q8_0`, `1e-5`, `true`.

    Raises ValueError for a value that makes no name (a list, a path, text with spaces).
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return number(value)
        case str() if _LABEL.fullmatch(value) and "," not in value:
            return value
        case str():
            raise ValueError(f"{quote(value, 40)} cannot name a step; use letters, digits and . _ + -")
        case _:
            raise ValueError("should be text, a number, true or false: its values name the steps")


def parse_source(text: str, schemes: tuple[str, ...] = SCHEMES) -> SourceRef:
    """`scheme:…`, checked as far as syntax goes. Raises ValueError, with what to do about it."""
    if len(text) > _LONGEST:
        raise ValueError(f"the reference {quote(text, 40)} is longer than {_LONGEST} characters")
    if show(text, _LONGEST) != text:
        raise ValueError(f"the reference {quote(text)} holds characters that no file or repository has")
    match = _SCHEME.fullmatch(text)
    if match is None:
        if text.startswith(("./", "/", "../", "~")) or text.lower().endswith(_FILES):
            raise ValueError(f"{quote(text)} lacks its kind; write file:{text}")
        if text.count("/") == 1:
            raise ValueError(f"{quote(text)} lacks its kind; write hf:{text} or modelscope:{text}")
        raise ValueError(f"{quote(text)} is no reference; write {_kinds(schemes)}")
    scheme, body = match[1], match[2]
    if scheme not in schemes:
        raise ValueError(
            f"no source is called {scheme}{did_you_mean(scheme, schemes) or f'; there are {_kinds(schemes)}'}"
        )
    problem = _problem(scheme, body)
    if problem:
        raise ValueError(f"{quote(text)} {problem}")
    return SourceRef(scheme, body)


def leaves_folder(path: str) -> bool:
    """Whether a relative path climbs out of the folder that it starts in; an absolute one may."""
    if posixpath.isabs(path):
        return False
    return posixpath.normpath(path).split("/", 1)[0] == ".."


def _problem(scheme: str, body: str) -> str | None:
    match scheme:
        case "hf" | "modelscope":
            match = _HUB.fullmatch(body)
            if match is None:
                return f"should be {scheme}:owner/repository, then @revision and /file if wanted"
            if leaves_folder(match["file"] or ".") or (match["file"] or "").startswith("/"):
                return "names a file outside its repository"
        case "file":
            if not body:
                return "names no file"
            if leaves_folder(body):
                return "leaves the recipe's folder; give an absolute path, or move the recipe up"
        case "https":
            if not _HTTPS.fullmatch(body):
                return "should be https://HOST/PATH#sha256= and 64 hexadecimal digits"
        case "smoke":
            if not _SMOKE.fullmatch(body):
                return "should be smoke:qwen2 or smoke:qwen3"
        case "ollama":
            if not _OLLAMA.fullmatch(body):
                return "should be ollama:name or ollama:name:tag"
        case _:
            if not body:
                return "names nothing"
    return None


def _kinds(schemes: tuple[str, ...]) -> str:
    return ", ".join(f"{scheme}:…" for scheme in schemes[:8])
