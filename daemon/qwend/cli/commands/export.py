"""qwend export"""

from __future__ import annotations

import os
import shlex
from typing import Any

import click

from qwend.cli import plans
from qwend.cli.request import recipe_options, recipe_request
from qwend.cli.session import open_daemon
from qwend.cli.terminal import clean
from qwend.cli.verbs import spelled
from qwend.cli.writing import yaml_text
from qwend.errors import UsageError


@click.group("export", epilog="Example: qwend export compose recipes/gguf.yaml -o served")
def command() -> None:
    """Write a recipe for those who run it without qwend."""


@command.command(epilog="Example: qwend export compose recipes/gguf.yaml -o served")
@click.argument("targets", metavar="[FILE] [STEP]...", nargs=-1)
@recipe_options
@click.option("-o", "--out", metavar="FOLDER", help="A new folder for it; default: NAME-compose.")
def compose(targets: tuple[str, ...], out: str | None, **options: Any) -> None:
    """Write the services of a recipe as a folder for Docker Compose: compose.yaml, and the files that it mounts.

    They are as confined as qwend would run them, listen on this machine only, and read what `up` has made, where it
    lies. Jobs are not in it: what a service reads must be made before.
    """
    options["runtime"] = options["runtime"] or "docker"
    if options["runtime"] != "docker":
        raise UsageError("Docker Compose runs containers", code="runtime", hint="leave --runtime out")
    request = recipe_request(targets, **options)
    end = plans.exported(open_daemon(), request, "compose")
    folder = out or end["document"]["name"].removesuffix("-exported") + "-compose"
    lines = ["# Written by qwend. docker compose up -d --wait"]
    lines += [
        f"# Build this image first: qwend images build {name} --runtime docker" for name in end["missing"]
    ]
    head = "".join(f"{spelled(clean(line, lines=False))}\n" for line in lines)
    _write(folder, {**end["files"], "compose.yaml": head + yaml_text(end["document"])})
    for line in lines[1:]:
        click.echo(spelled(clean(line.removeprefix("# "), lines=False)), err=True)
    main = shlex.quote(os.path.join(folder, "compose.yaml"))
    click.echo(clean(f"wrote {main}; docker compose -f {main} up -d --wait", lines=False))


def _write(folder: str, files: dict[str, str]) -> None:
    """Writes files into a new folder. They are for the containers' user to read, whatever the umask."""
    try:
        os.mkdir(folder)
        for path, text in files.items():
            whole = os.path.join(folder, path)
            os.makedirs(os.path.dirname(whole), exist_ok=True)
            with open(whole, "x", encoding="utf-8") as file:
                file.write(text)
            os.chmod(os.path.dirname(whole), 0o755)
            os.chmod(whole, 0o644)
    except FileExistsError:
        raise UsageError(
            "it is there already", where=folder, code="exists", hint="write it elsewhere with -o FOLDER"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write it: {error.strerror}", where=folder, code="unwritable") from None
