"""A RecipeRequest from the command line: the files' text, and of the environment only what the text mentions."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from qwend.cli.failures import nearest
from qwend.cli.results import API_KEY
from qwend.cli.session import read_text, recipe_files
from qwend.client import Json
from qwend.errors import UsageError

_MENTION = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*))")
_LIMIT = 8 << 20

F = TypeVar("F", bound=Callable[..., Any])


class _Word(click.Choice[str]):
    """One of a few words; a wrong one is answered with the word that was meant."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            near = "cuda" if value in _CARDS and "cuda" in self.choices else nearest(value, self.choices)
            guess = f"; did you mean {near}?" if near else ""
            self.fail(f'"{value}" is not one of {", ".join(self.choices)}{guess}', param, ctx)
        return value


_CARDS = ("gpu", "nvidia")
RUNTIME = _Word(["auto", "docker", "native"])
DEVICE = _Word(["auto", "cpu", "cuda", "apple"])


def recipe_options(function: F) -> F:
    """The options of every command that reads a recipe."""
    for option in reversed(
        [
            click.option(
                "-f",
                "--file",
                "files",
                multiple=True,
                metavar="FILE",
                help="A recipe file; several are merged in order, - is standard input.",
            ),
            click.option(
                "--set",
                "sets",
                multiple=True,
                metavar="KEY=VALUE",
                help="Change a value: --set steps.q4.with.type=Q5_K_M.",
            ),
            click.option(
                "--profile",
                "profiles",
                multiple=True,
                metavar="NAME",
                help="Take in the steps of this profile.",
            ),
            click.option(
                "--smoke", is_flag=True, help="Tiny models in place of all sources; touches no hub."
            ),
            click.option(
                "--runtime",
                type=RUNTIME,
                help="Where steps run.",
            ),
            click.option("--device", type=DEVICE, help="What steps run on."),
            click.option(
                "--project-directory",
                metavar="FOLDER",
                help="Relative paths start here instead of at the recipe.",
            ),
        ]
    ):
        function = option(function)
    return function


def recipe_request(
    positionals: Sequence[str] = (),
    *,
    files: Sequence[str],
    sets: Sequence[str] = (),
    profiles: Sequence[str] = (),
    smoke: bool = False,
    runtime: str | None = None,
    device: str | None = None,
    project_directory: str | None = None,
    secrets: Sequence[str] = (),
    **more: object,
) -> Json:
    """The body for /v1/plan, /v1/runs and /v1/lock. Positionals are a recipe file (first) and steps."""
    chosen, steps = recipe_files(files, positionals)
    if not chosen:
        step = f', and "{steps[0]}" is no recipe file' if steps else ""
        raise UsageError(
            f"no recipe: there is no qwend.yaml here{step}",
            code="no-recipe",
            hint="name one: -f FILE.yaml, or write one: qwend init",
        )
    texts = [
        {"path": path if path == "-" else os.path.abspath(path), "text": read_text(path)} for path in chosen
    ]
    return request_of(
        texts,
        directory=project_directory
        or ("." if chosen[0] == "-" else os.path.dirname(os.path.abspath(chosen[0]))),
        set=list(sets),
        profiles=list(profiles),
        smoke=smoke,
        runtime=runtime,
        device=device,
        steps=steps,
        secrets={**hub_tokens(), **secret_values(secrets)},
        **more,
    )


def request_of(files: Sequence[dict[str, str]], *, directory: str, **more: object) -> Json:
    """The same for texts that are already at hand."""
    if sum(len(file["text"]) for file in files) > _LIMIT:
        raise UsageError(
            f"the recipe is larger than {_LIMIT >> 20} MiB", where=files[0]["path"], code="too-large"
        )
    mentioned = {name for file in files for name in _MENTION.findall(file["text"]) if name}
    return {
        "files": list(files),
        "directory": os.path.abspath(directory),
        "env": {name: os.environ[name] for name in sorted(mentioned) if name in os.environ},
        **more,
    }


def spelled_key(given: Sequence[str]) -> str | None:
    """What a shell makes the API key of that was given: the file's content, or the variable's."""
    for text in given:
        name, says, source = text.partition("=")
        if name == API_KEY:
            variable = name if name in os.environ else name.upper()
            return (
                f"$(cat {shlex.quote(os.path.abspath(os.path.expanduser(source[1:])))})"
                if says
                else f"${variable}"
            )
    return None


def described_host(path: str) -> Json:
    """The machine in a file: what `qwend doctor --json` printed there, or its `host` alone."""
    try:
        told = json.loads(read_text(path))
    except ValueError as error:
        raise UsageError(
            f"{path} is no JSON: {error}", code="bad-host", hint="qwend doctor --json > FILE"
        ) from None
    host = told.get("host", told) if isinstance(told, dict) else None
    if not isinstance(host, dict) or "system" not in host:
        raise UsageError(f"{path} describes no machine", code="bad-host", hint="qwend doctor --json > FILE")
    return host


def hub_tokens() -> dict[str, str]:
    """The user's own tokens for the hubs, from where the hubs' own tools keep them."""
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    kept = os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")
    found = {
        "hf_token": os.environ.get("HF_TOKEN") or (read_text(kept).strip() if os.path.isfile(kept) else ""),
        "modelscope_token": os.environ.get("MODELSCOPE_API_TOKEN", ""),
    }
    return {name: value for name, value in found.items() if value}


def secret_values(given: Sequence[str]) -> dict[str, str]:
    """`NAME` is read from the environment variable NAME, `NAME=@FILE` from a file; a value is never an argument."""
    values = {}
    for text in given:
        name, says, source = text.partition("=")
        if not says:
            value = os.environ.get(name, os.environ.get(name.upper()))
            if value is None:
                raise UsageError(
                    f"secret {name}: the environment has no {name}",
                    code="no-secret",
                    hint=f"--secret {name}=@FILE",
                )
        elif source.startswith("@"):
            value = read_text(os.path.expanduser(source[1:])).rstrip("\n")
        else:
            raise UsageError(
                f"secret {name}: a value on the command line can be read by others",
                code="open-secret", hint=f"--secret {name}=@FILE, or --secret {name} with the variable {name} set",
            )  # fmt: skip
        values[name] = value
    return values
