"""What Ollama is to be told of a model: its Modelfile, composed of the model's own files and what the recipe says."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_meta import read_metadata
from go_chat import NotExpressible, go_template
from modelfile import Command, Modelfile, ModelfileError, parse, write
from ollama_start import DriverError, say

MODELFILE, JINJA = "Modelfile", "chat_template.jinja"
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
_GGUF_SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repeat_penalty",
}
_STOPS = ("<|im_start|>", "<|im_end|>")
_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")


@dataclass(frozen=True)
class Model:
    """A model on disk. `files` are what Ollama reads of it, `jinja` its chat template (None: it has none)."""

    files: tuple[Path, ...]
    jinja: str | None
    sampling: Mapping[str, Any]
    license: str | None
    gguf: bool


def look(folder: Path) -> Model:
    """A GGUF (whole or in parts) or a checkpoint. Raises DriverError."""
    ggufs = (
        [folder]
        if folder.is_file()
        else sorted(p for p in folder.glob("*.gguf") if not p.name.startswith("mmproj"))
    )
    if ggufs:
        meta = read_metadata(ggufs[0])
        sampling = {ours: meta[key] for key, ours in _GGUF_SAMPLING.items() if key in meta}
        template, licence = meta.get("tokenizer.chat_template"), meta.get("general.license")
        return Model(tuple(ggufs), _text(template), _plain(sampling), _text(licence), True)
    if not (folder / "config.json").is_file():
        raise DriverError(f"{folder.name} holds neither a GGUF nor a checkpoint")
    said = _json(folder / "generation_config.json")
    sampling = {ours: said[key] for key, ours in _SAMPLING.items() if isinstance(said.get(key), int | float)}
    if said.get("do_sample") is False:
        sampling = {"temperature": 0.0}
    names = (*_LICENSES, JINJA)
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in names if (folder / name).is_file()}
    template = texts.get(JINJA) or _json(folder / "tokenizer_config.json").get("chat_template")
    licence = next((texts[name] for name in _LICENSES if name in texts), None)
    files = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".json") or p.name == JINJA]
    return Model(tuple(sorted(files)), _text(template), sampling, licence, False)


def compose(model: Model, wanted: Mapping[str, Any], source: str, kept: str = "the log") -> Modelfile:
    """The Modelfile of a model. `source` is what stands behind FROM; `wanted` holds `system`, `template`, `parameters`,
    `license`, `messages`, as the recipe says them. Raises DriverError where the chat template has no Go counterpart;
    `kept` is where the original can be read then."""
    commands = [Command("from", source)]
    template = wanted.get("template") or template_of(model.jinja, kept)
    if template:
        commands.append(Command("template", template))
    if wanted.get("system"):
        commands.append(Command("system", wanted["system"]))
    stops = _STOPS if _STOPS[0] in (template or "") else ()
    parameters: dict[str, Any] = {"stop": list(stops), **model.sampling, **wanted.get("parameters", {})}
    for name, value in sorted(parameters.items()):
        several = value if isinstance(value, list | tuple) else (value,)
        commands += [Command("parameter", _spelled(one), name) for one in several]
    licence = wanted.get("license") or model.license
    if licence:
        commands.append(Command("license", licence))
    commands += [Command("message", one["content"], one["role"]) for one in wanted.get("messages", ())]
    return checked(commands)


def template_of(jinja: str | None, kept: str = "the log") -> str | None:
    """The Go template of a Jinja template. Raises DriverError, with the original in the log."""
    if jinja is None:
        say("the model has no chat template: Ollama will give prompts to it as they are")
        return None
    try:
        return go_template(jinja)
    except NotExpressible as error:
        say(f"--- the model's own template, in Jinja ---\n{jinja}\n---")
        raise DriverError(
            f"the model's chat template cannot be expressed for Ollama: {error}",
            f"write a Go template and give it as template; the original stands in {kept}",
        ) from None


def checked(commands: Iterable[Command]) -> Modelfile:
    """The Modelfile, if what is written of it is read as the same again. Raises DriverError."""
    made = Modelfile(tuple(commands))
    try:
        again = parse(write(made))
    except ModelfileError as error:
        raise DriverError(f"a Modelfile cannot say this: {error}") from None
    if [(c.name, c.key, c.text) for c in again.commands] != [(c.name, c.key, c.text) for c in made.commands]:
        raise DriverError(
            "a text cannot be quoted for a Modelfile", 'leave """ out of system, template and license'
        )
    return made


def read(path: Path) -> Modelfile:
    """A user's Modelfile. Raises DriverError with the line."""
    try:
        data = path.read_bytes()
        wide = data.startswith(
            (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        )  # as Windows writes it, and Ollama reads it
        return parse(data.decode("utf-16" if wide else "utf-8"))
    except ModelfileError as error:
        at = f":{error.line}" if error.line else ""
        raise DriverError(
            f"{path.name}{at}: {str(error).partition(': ')[2] if error.line else error}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DriverError(f"{path.name} cannot be read: {error}") from None


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers without the noise of 32-bit floats."""
    return {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in values.items()}


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        raise DriverError(f"{path.name} is no JSON", "fetch the model again") from None
    return value if isinstance(value, dict) else {}
