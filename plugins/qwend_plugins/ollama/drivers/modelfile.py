"""The grammar of a Modelfile: read with line numbers, written so that Ollama reads the same again. Pure.

    # comment
    INSTRUCTION arguments            an instruction in any case; text runs to the end of the line
    INSTRUCTION \"\"\"text of
    several lines\"\"\"                 or in \"quotes\", which may hold line breaks, too
    PARAMETER name value
    MESSAGE role text

Source: Ollama's documentation of the Modelfile and the behaviour of its parser: quotes are taken off only where they
open the value and close it; there is no escape; a quote that is never closed is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TEXTS = ("template", "system", "adapter", "license", "renderer", "parser", "requires", "draft", "capability")
"""Instructions with one text. FROM, PARAMETER and MESSAGE have shapes of their own."""
_OTHERS = ", ".join(name.upper() for name in TEXTS)
ROLES = ("system", "user", "assistant")
WHOLE = frozenset(
    (
        *("num_ctx", "num_batch", "num_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k"),
        *("repeat_last_n", "main_gpu", "draft_num_predict"),
    )
)
REAL = frozenset(
    (
        *("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty"),
        *("frequency_penalty", "tfs_z", "mirostat_tau", "mirostat_eta"),
    )
)
SWITCH = frozenset(
    (
        *("use_mmap", "numa", "low_vram", "f16_kv", "vocab_only", "use_mlock", "logits_all"),
        "penalize_newline",
    )
)
PARAMETERS = WHOLE | REAL | SWITCH | {"stop", "mirostat"}
DEPRECATED = frozenset(
    (
        *("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock"),
        *("mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "numa"),
    )
)
_QUOTE = '"""'
_SPACE = " \t"

Value = int | float | bool | str


class ModelfileError(ValueError):
    """What is wrong, and on which line (from 1; 0: of the file as a whole)."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


@dataclass(frozen=True)
class Command:
    """One instruction. `name` is in lower case (`from`, `parameter`, …); `key` is the name of a parameter or the role
    of a message, empty otherwise; `line` is where it begins."""

    name: str
    text: str
    key: str = ""
    line: int = 0


@dataclass(frozen=True)
class Modelfile:
    """The instructions in their order."""

    commands: tuple[Command, ...] = field(default=())

    def text(self, name: str) -> str | None:
        """The text of an instruction; the last one counts where there are several, as with Ollama."""
        found = self.texts(name)
        return found[-1] if found else None

    def all(self, name: str) -> tuple[Command, ...]:
        return tuple(command for command in self.commands if command.name == name)

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(command.text for command in self.all(name))

    @property
    def parameters(self) -> dict[str, Value | list[str]]:
        """Values by name, typed as Ollama's API takes them; `stop` is a list."""
        found: dict[str, Value | list[str]] = {}
        stops: list[str] = []
        for command in self.commands:
            if command.name == "parameter" and command.key == "stop":
                stops.append(command.text)
            elif command.name == "parameter" and command.key not in DEPRECATED:
                found[command.key] = value_of(command.key, command.text, command.line)
        return found | ({"stop": stops} if stops else {})

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": c.key, "content": c.text} for c in self.commands if c.name == "message"]


def parse(text: str) -> Modelfile:
    """Reads a Modelfile. Raises ModelfileError with the line of the first mistake."""
    commands = tuple(_commands(text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")))
    if not any(command.name == "from" for command in commands):
        raise ModelfileError(0, "there is no FROM: it names the model, a GGUF or a folder")
    return Modelfile(commands)


def write(modelfile: Modelfile) -> str:
    """The text of a Modelfile, which `parse` and Ollama read as the same instructions.

    Raises ModelfileError for a text that Ollama has no way to quote.
    """
    return "".join(_written(command) for command in modelfile.commands)


def _commands(text: str) -> Iterator[Command]:
    at, line = 0, 1
    while at < len(text):
        if text[at] in _SPACE + "\n":
            line += text[at] == "\n"
            at += 1
            continue
        end = _line_end(text, at)
        if text[at] == "#":
            at = end
            continue
        word = re.compile(r"[A-Za-z]+").match(text, at)
        name = word[0].lower() if word else ""
        if not word or name not in (*TEXTS, "from", "parameter", "message"):
            said = (word[0] if word else text[at:end].split()[0])[:40]
            raise ModelfileError(
                line,
                f"{said!r} is no instruction; there are FROM, PARAMETER, MESSAGE, {_OTHERS}",
            )
        at, key = word.end(), ""
        if at < len(text) and text[at] not in _SPACE + "\n":
            raise ModelfileError(line, f"a space should follow {word[0]}")
        if name in ("parameter", "message"):
            at, key = _key(text, at, line, name)
        at, value, lines = _value(text, at, line, word[0].upper())
        command = Command(name, value, key, line)
        _check(command)
        yield command
        line += lines


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _key(text: str, at: int, line: int, name: str) -> tuple[int, str]:
    """The name of a parameter, or the role of a message."""
    at = _skip(text, at)
    word = re.compile(r"[A-Za-z0-9_]+(?=[ \t]|\n|\Z)").match(text, at)
    what = "PARAMETER needs a name and a value" if name == "parameter" else "MESSAGE needs a role and a text"
    if not word:
        raise ModelfileError(line, what)
    if name == "message" and word[0] not in ROLES:
        raise ModelfileError(line, f"the role {word[0]!r} is none of {', '.join(ROLES)}")
    return word.end(), word[0]


def _value(text: str, at: int, line: int, name: str) -> tuple[int, str, int]:
    """Where the value ends, the value, and how many line breaks it holds."""
    at = _skip(text, at)
    for quote in (_QUOTE, '"'):
        if text.startswith(quote, at):
            end = _closing(text, at + len(quote), quote)
            if end is None:
                raise ModelfileError(line, f"the quote that {name} opens ({quote}) is never closed")
            value = text[at + len(quote) : end]
            return end + len(quote), value, value.count("\n")
    end = _line_end(text, at)
    value = text[at:end].strip(_SPACE)
    if not value:
        raise ModelfileError(line, f"{name} has nothing behind it")
    return end, value, 0


def _closing(text: str, at: int, quote: str) -> int | None:
    """Where the closing quote stands: the first that nothing but blanks follows on its line."""
    while (end := text.find(quote, at)) >= 0:
        if not text[end + len(quote) : _line_end(text, end)].strip(_SPACE):
            return end
        at = end + 1
    return None


def _check(command: Command) -> None:
    if command.name == "parameter":
        if command.key not in PARAMETERS:
            raise ModelfileError(
                command.line,
                f"there is no parameter {command.key!r}; there are {', '.join(sorted(PARAMETERS - DEPRECATED))}",
            )
        value_of(command.key, command.text, command.line)
    elif command.name == "requires" and not re.fullmatch(
        r"v?\d+(\.\d+){0,2}(-[0-9A-Za-z.-]+)?", command.text
    ):
        raise ModelfileError(command.line, f"REQUIRES takes a version such as 0.14.0, not {command.text!r}")


def value_of(name: str, text: str, line: int = 0) -> Value:
    """A parameter's value in its type. Raises ModelfileError."""
    try:
        if name in WHOLE or name == "mirostat":
            return int(text)
        if name in REAL:
            return float(text)
    except ValueError:
        kind = "a whole number" if name in WHOLE else "a number"
        raise ModelfileError(line, f"{name} takes {kind}, not {text!r}") from None
    if name in SWITCH:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ModelfileError(line, f"{name} takes true or false, not {text!r}")
        return text.lower() in ("true", "1")
    return text


def _written(command: Command) -> str:
    head = command.name.upper() + (f" {command.key}" if command.key else "")
    return f"{head} {quoted(command.text, command.line)}\n"


def quoted(text: str, line: int = 0) -> str:
    """A text as a value: bare where it may be, else in one of the two kinds of quotes."""
    plain = "\n" not in text and text == text.strip(_SPACE) and text and not text.startswith('"')
    if plain:
        return text
    for quote in ('"', _QUOTE):
        if ("\n" not in text or quote == _QUOTE) and quote not in text and not text.endswith('"'):
            return f"{quote}{text}{quote}"
    if _QUOTE not in text and not text.endswith('"'):
        return f"{_QUOTE}{text}{_QUOTE}"
    raise ModelfileError(line, 'a text cannot hold """ or end with ": Ollama has no escape for them')
