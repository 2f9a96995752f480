"""A recipe as text, composed from a command line. Values stay as the user spelled them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from qwend.errors import QwendError, UsageError

_PLAIN = re.compile(r"-?[A-Za-z0-9_./+][A-Za-z0-9_./+-]*")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9_]+")
_FLOW = (("[", "]"), ("{", "}"), ('"', '"'), ("'", "'"))


def scalar(text: str) -> str:
    """A value for YAML: numbers, words and flow collections as they are, anything else quoted."""
    flow = any(len(text) > 1 and text.startswith(first) and text.endswith(last) for first, last in _FLOW)
    if (flow and "\n" not in text) or _PLAIN.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=False)


def name_of(text: str) -> str:
    """A name for a recipe or a step made of any text: `llama-cpp/quantize` → `llama_cpp_quantize`."""
    name = _NOT_IN_A_NAME.sub("_", text.lower()).strip("_")
    return name[:64] if name[:1].isalpha() else f"r_{name}"[:64]


def step_of(engine: str) -> str:
    """The name of the one step that runs this engine."""
    return name_of(engine.partition("/")[2])


def split_pair(text: str, option: str) -> tuple[str, str]:
    """`key=value` of an option."""
    key, says, value = text.partition("=")
    if not says or not key:
        raise UsageError(f'{option} "{text}": write it as KEY=VALUE', code="bad-pair")
    return key.strip(), value


def single_step(
    engine: str,
    *,
    name: str,
    sources: Sequence[str],
    datasets: bool,
    parameters: Mapping[str, str],
    out: str | None,
) -> str:
    """The recipe that runs one engine on these sources."""
    step = step_of(engine)
    lines = ["version: 1", f"name: {name}"]
    inputs = [f"input_{i}" if len(sources) > 1 else "input" for i in range(1, len(sources) + 1)]
    if sources:
        lines.append("datasets:" if datasets else "models:")
        lines += [f"  {key}: {scalar_string(source)}" for key, source in zip(inputs, sources, strict=True)]
    lines += ["steps:", f"  {step}:", f"    uses: {engine}"]
    if inputs:
        lines.append(f"    from: {inputs[0]}" if len(inputs) == 1 else f"    from: [{', '.join(inputs)}]")
    if parameters:
        lines.append("    with:")
        lines += [f"      {scalar(key)}: {scalar(value)}" for key, value in parameters.items()]
    if out is not None:
        lines.append(f"    out: {scalar_string(out)}")
    return "\n".join(lines) + "\n"


@contextmanager
def blaming_options(step: str, source: str = "--from") -> Iterator[None]:
    """Errors of a recipe that was composed from a command line speak of its options, not of lines that nobody wrote.
    `source` is how that one names the model."""
    try:
        yield
    except QwendError as error:
        raise _of_options(error, step, source) from None


def _of_options(error: QwendError, step: str, source: str) -> QwendError:
    if error.details:
        error.details = tuple(_of_options(one, step, source) for one in error.details)
    if error.where is None or not error.where.startswith("-:"):
        return error
    key, colon, rest = error.message.partition(": ")
    for path, option in ((f"steps.{step}.with", "--with"), (f"steps.{step}.from", source),
                         ("models", source), ("datasets", source), (f"steps.{step}.uses", "ENGINE"),
                         (f"steps.{step}.runtime", "--runtime"), (f"steps.{step}.out", "--out")):  # fmt: skip
        if colon and (key == path or key.startswith(f"{path}.")):
            name = key.removeprefix(path)[1:] if option == "--with" else ""
            error.message = f"{option} {name}: {rest}" if name else f"{option}: {rest}"
            break
    error.where = None
    return error


def yaml_text(value: object, indent: int = 0) -> str:
    """JSON's values as block YAML, scalars as JSON writes them."""
    pad = " " * indent
    if isinstance(value, Mapping) and value:
        return "".join(f"{pad}{_key(key)}:{_below(item, indent)}" for key, item in value.items())
    if isinstance(value, list) and value and any(isinstance(item, Mapping | list) for item in value):
        return "".join(f"{pad}- {yaml_text(item, indent + 2).lstrip(' ')}" for item in value)
    return f"{pad}{_flow(value)}\n"


def _below(value: object, indent: int) -> str:
    nested = isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value)
    if (isinstance(value, Mapping) and value) or nested:
        return "\n" + yaml_text(value, indent + 2)
    return f" {_flow(value)}\n"


def _flow(value: object) -> str:
    """On one line, as JSON; characters that are not to be seen as YAML's escapes."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) and key.lower() not in _WORDS else _flow(key)


def scalar_string(text: str) -> str:
    """A value that is a string whatever it looks like; `${` in it is no variable."""
    return json.dumps(text.replace("$", "$$"), ensure_ascii=False)
