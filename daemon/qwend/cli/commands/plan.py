"""qwend plan"""

from __future__ import annotations

import sys
from typing import Any

import click

from qwend.cli import plans
from qwend.cli.output import json_option, print_json
from qwend.cli.request import described_host, recipe_options, recipe_request
from qwend.cli.session import open_daemon
from qwend.cli.terminal import clean


@click.command(
    "plan",
    epilog="Example: qwend plan recipes/gguf.yaml --set steps.q4.with.type=Q5_K_M\n\nJSON: an object with plan "
    "(recipe, actions, warnings, blockers, download, disk, changes) and compiled (recipe, smoke, warnings, steps).",
)
@click.argument("targets", metavar="[FILE] [STEP]...", nargs=-1)
@recipe_options
@click.option("--force", multiple=True, metavar="STEP", help="Plan this step as if nothing were there.")
@click.option("--locked", is_flag=True, help="Fail where the recipe's lock would change.")
@click.option(
    "--host", metavar="FILE", help="Plan for the machine that `qwend doctor --json` described there."
)
@click.option("--shell", is_flag=True, help="Print the commands that would run, as a script that runs.")
@json_option
def command(targets: tuple[str, ...], host: str | None, shell: bool, as_json: bool, **options: Any) -> None:
    """Show what `up` would do, and why: every step with its action, its reason and what it takes.

    Nothing is fetched, built or started.
    """
    request = recipe_request(targets, **options)
    if host is not None:
        request["host"] = described_host(host)
    if shell:
        if as_json or host is not None:
            raise click.UsageError(
                "--shell is for this machine and for people: it goes with no --json and no --host"
            )
        text = plans.exported(open_daemon(), request, "shell")["text"]
        click.echo(clean(text) if sys.stdout.isatty() else text, nl=False)
        return
    answer = plans.planned(open_daemon(), request)
    if as_json:
        print_json({key: answer[key] for key in ("plan", "compiled")})
    else:
        click.echo("\n".join(plans.full(answer)))
    plans.refuse(answer)
