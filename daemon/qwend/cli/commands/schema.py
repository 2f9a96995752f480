"""qwend schema"""

from __future__ import annotations

import click

from qwend.cli.output import print_json
from qwend.cli.session import open_daemon


@click.command("schema", epilog="Example: qwend schema > .qwend.schema.json")
def command() -> None:
    """Print the JSON Schema of recipes, every installed engine's parameters included.

    An editor completes and checks a recipe that begins with
    `# yaml-language-server: $schema=.qwend.schema.json`.
    """
    print_json(open_daemon().get("/v1/schema"))
