"""qwend up"""

from __future__ import annotations

from typing import Any

import click

from qwend.cli import plans
from qwend.cli.acting import exit_with
from qwend.cli.request import recipe_options, recipe_request, spelled_key
from qwend.cli.session import open_daemon


@click.command("up", epilog="Example: qwend up recipes/quickstart.yaml")
@click.argument("targets", metavar="[FILE] [STEP]...", nargs=-1)
@recipe_options
@click.option("-d", "--detach", is_flag=True, help="Return when all is ready, and leave it running.")
@click.option("--no-wait", is_flag=True, help="With -d: return at once.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option(
    "--force", multiple=True, metavar="STEP", help="Do this step again even if its result is there."
)
@click.option("--locked", is_flag=True, help="Fail where the recipe's lock would change.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME[=@FILE]",
    help="A secret of the recipe, from a variable or a file.",
)
def command(targets: tuple[str, ...], detach: bool, no_wait: bool, dry_run: bool, **options: Any) -> None:
    """Bring a recipe up: fetch, build, run and serve what is not there yet.

    STEP brings up only that and what it needs. Jobs that are done stay done; a second `up` changes nothing.
    It stays in the foreground for services that it started: Ctrl-C stops them, twice kills, -d leaves them.
    """  # fmt: skip
    if no_wait and not detach:
        raise click.UsageError("--no-wait goes with -d")
    request = recipe_request(targets, **options, kept=detach)
    client = open_daemon()
    if dry_run:
        answer = plans.planned(client, request)
        click.echo("\n".join(plans.full(answer)))
        plans.refuse(answer)
        return
    from qwend.cli.running import Foreground

    exit_with(Foreground(client, request, wait=not no_wait, key=spelled_key(options["secrets"])).go())
