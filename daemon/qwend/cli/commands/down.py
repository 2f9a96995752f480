"""qwend down"""

from __future__ import annotations

import click

from qwend.cli import progress, results
from qwend.cli.acting import exit_with, settle
from qwend.cli.completing import name_option
from qwend.cli.output import json_option, print_json
from qwend.cli.session import find_recipe, open_daemon, recipe_files
from qwend.client import quote
from qwend.errors import UsageError


@click.command(
    "down",
    epilog="Example: qwend down -p huanhuan\n\nJSON: an object with stopped and killed (lists of RECIPE/STEP), "
    "builds_ended and builds_going_on (images), exit_code.",
)
@click.argument("recipe_file", metavar="[FILE]", required=False)
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="The recipe of this file.")
@name_option
@click.option("--all", "everything", is_flag=True, help="Stop every recipe.")
@json_option
def command(
    recipe_file: str | None, files: tuple[str, ...], name: str | None, everything: bool, as_json: bool
) -> None:
    """Stop what a recipe runs: its jobs at once, its services with their grace. Artifacts stay."""
    if everything and (name or files or recipe_file):
        raise UsageError(
            "--all stops every recipe, and one was named",
            code="contradiction",
            hint="leave one of the two out",
        )
    chosen, rest = recipe_files(files, [recipe_file] if recipe_file else [])
    if rest:
        raise UsageError(
            f'down takes a recipe file; "{rest[0]}" is none',
            hint="-p NAME names a recipe, `qwend stop STEP` stops one step",
        )
    client = open_daemon()
    target = "/v1/down" if everything else f"/v1/recipes/{quote(find_recipe(client, name, chosen))}/down"
    with progress.display() as shown:
        end = progress.follow(client.stream("POST", target), shown)
    stopped, killed = end.get("stopped") or [], end.get("killed") or []
    if as_json:
        print_json(end)
    elif killed:
        click.echo(f"stopped {len(stopped)}, killed {len(killed)} at the deadline: {', '.join(killed)}")
    else:
        nothing = not (stopped or end.get("builds_ended"))
        click.echo("nothing was running" if nothing else f"stopped {len(stopped)}")
    if not as_json:
        for line in results.builds(end):
            click.echo(line)
    exit_with(settle(end))
