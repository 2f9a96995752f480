"""qwend report"""

from __future__ import annotations

import os
import sys

import click

from qwend.cli.completing import name_option
from qwend.cli.output import print_json
from qwend.cli.session import find_recipe, is_recipe_file, open_daemon
from qwend.client import Json, quote
from qwend.errors import QwendError, UsageError

_ENDINGS = {".html": "html", ".htm": "html", ".md": "md", ".json": "json"}


@click.command(
    "report",
    epilog="Example: qwend report eval --open\n\nThe HTML file needs nothing else: no network, no script.\n\n"
    "JSON: an object with recipe, source, smoke, made, version, host and steps; each step has name, engine, kind, "
    "state, seconds, inputs, image, command, options, artifact (facts, metrics, provenance), gates, and where there is "
    "one its table and curves.",
)
@click.argument("recipe", required=False, metavar="[NAME|FILE]")
@name_option
@click.option("-o", "--output", metavar="FILE", help="Where to write it (- is standard output).")
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "md", "json"]),
    help="Default: by the file's name, else html.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the data as JSON.")
def command(
    recipe: str | None, name: str | None, output: str | None, form: str | None, show: bool, as_json: bool
) -> None:
    """Write a report on a recipe: figures, plots, gates, lineage, machine, versions, how to do it again."""
    if recipe is not None and name is not None:
        raise UsageError("the recipe is named twice", hint="say it once: qwend report NAME")
    client = open_daemon()
    files = [recipe] if recipe is not None and is_recipe_file(recipe) else []
    wanted = find_recipe(client, name if files else recipe or name, files)
    data = client.get(f"/v1/recipes/{quote(wanted)}/report")
    if as_json or (form == "json" and output is None):
        print_json(data)
        return
    form = form or _ENDINGS.get(os.path.splitext(output or "")[1].lower(), "html")
    text = _rendered(data, form)
    if output == "-":
        sys.stdout.write(text)
        return
    path = os.path.abspath(output or f"{wanted}-report.{form}")
    _write(path, text)
    click.echo(path)
    if show:
        click.launch(path)


def _rendered(data: Json, form: str) -> str:
    from qwend.report import markdown, page

    if form == "json":
        import json

        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    return page(data) if form == "html" else markdown(data)


def _write(path: str, text: str) -> None:
    """Whole or not at all: a page that is open elsewhere is replaced, never half-written."""
    partial = f"{path}.part"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(partial, path)
    except OSError as error:
        raise QwendError(
            f"{path} cannot be written: {error.strerror}",
            code="unwritable",
            hint="name another file: -o FILE",
        ) from None
