"""qwend run"""

from __future__ import annotations

import os
import zlib

import click

from qwend.cli.acting import exit_with
from qwend.cli.attachment import Attachment, attached
from qwend.cli.commands.plugins import find_engine
from qwend.cli.request import RUNTIME, recipe_request, request_of, secret_values, spelled_key
from qwend.cli.running import Foreground
from qwend.cli.session import open_daemon
from qwend.cli.terminal import clean
from qwend.cli.writing import blaming_options, name_of, single_step, split_pair, step_of
from qwend.client import Client, Json, quote
from qwend.errors import UsageError


@click.command(
    "run",
    epilog="Example: qwend run llama-cpp/quantize --from file:model-f16.gguf --with type=Q4_K_M --out ./q4",
)
@click.argument("engine", metavar="ENGINE|STEP")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="REF",
    help="The input: hf:owner/repo, modelscope:…, file:path.",
)
@click.option("--with", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter of the engine.")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="The recipe of STEP.")
@click.option("--out", metavar="FOLDER", help="The result also appears here.")
@click.option("--save", metavar="FILE", help="Write the recipe that says the same.")
@click.option("--name", metavar="NAME", help="Name of the recipe; default: from the engine and its input.")
@click.option("--runtime", type=RUNTIME, help="Where it runs.")
@click.option("-d", "--detach", is_flag=True, help="Return when it is ready, and leave it running.")
@click.option(
    "--secret", "secrets", multiple=True, metavar="NAME[=@FILE]", help="A secret, from a variable or a file."
)
def command(
    engine: str,
    sources: tuple[str, ...],
    parameters: tuple[str, ...],
    files: tuple[str, ...],
    out: str | None,
    save: str | None,
    name: str | None,
    runtime: str | None,
    detach: bool,
    secrets: tuple[str, ...],
) -> None:
    """Run ENGINE (as plugin/engine) without a recipe; prints the recipe that says the same.

    An engine that talks to a terminal (llama-cpp/chat) is given this one; so is STEP of a recipe that has such an
    engine. It ends with the terminal, and `up`, `ps` and `down` know nothing of it.
    """
    client = open_daemon()
    if "/" not in engine:
        if sources or parameters or out or save or name or detach:
            raise UsageError(
                f"{engine} is a step: its recipe says all of it",
                code="step-options",
                hint="qwend run STEP -f FILE",
            )
        asked = recipe_request(files=files, runtime=runtime, secrets=secrets, positionals=(engine,))
        return exit_with(Attachment(client, attached(asked)).go())
    if files:
        raise UsageError("-f is for a STEP of a recipe", code="step-options", hint="qwend run STEP -f FILE")
    found = find_engine(client.get("/v1/plugins")["plugins"], engine)
    terminal = found["kind"] == "interactive"
    if terminal and (detach or out):
        raise UsageError(
            f"{engine} talks to this terminal: it leaves nothing behind, and nothing runs on",
            code="interactive", hint="leave -d and --out out",
        )  # fmt: skip
    pairs = dict(split_pair(text, "--with") for text in parameters)
    recipe = name or _name(engine, sources, parameters)
    text = single_step(
        engine,
        name=recipe,
        sources=sources,
        datasets=_takes_data(found),
        parameters=pairs,
        out=os.path.abspath(out) if out else None,
    )
    if save is not None:
        _save(save, text)
    click.echo(clean(text), err=True)
    file = {"path": os.path.abspath(save) if save else "-", "text": text}
    request = request_of(
        [file],
        directory=os.path.dirname(file["path"]) or ".",
        kept=detach,
        runtime=runtime,
        secrets=secret_values(secrets),
    )
    with blaming_options(step_of(engine)):
        if terminal:
            return exit_with(Attachment(client, attached({**request, "steps": [step_of(engine)]})).go())
        code = Foreground(client, request, key=spelled_key(secrets)).go()
    if code == 0 and found["kind"] == "job":
        click.echo(clean(_location(client, recipe, engine)))
    exit_with(code)


def _name(engine: str, sources: tuple[str, ...], parameters: tuple[str, ...]) -> str:
    """The same command line has the same name, so that a second one finds the first one's results."""
    digest = zlib.crc32("\0".join((engine, *sources, "", *parameters)).encode())
    return f"{name_of(engine)[:50]}_{digest:08x}"


def _location(client: Client, recipe: str, engine: str) -> str:
    """Where the result lies."""
    found = client.get(f"/v1/steps/{quote(recipe)}/{quote(step_of(engine))}")
    return str((found.get("artifact") or {}).get("location", ""))


def _takes_data(engine: Json) -> bool:
    return bool(engine["accepts"]) and all(kind.startswith("dataset/") for kind in engine["accepts"])


def _save(path: str, text: str) -> None:
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(
            "it is there already", where=path, code="exists", hint="give --save another name"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write it: {error.strerror}", where=path, code="unwritable") from None
