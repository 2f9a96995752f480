"""qwend lock"""

from __future__ import annotations

from typing import Any

import click

from qwend.cli import progress
from qwend.cli.acting import exit_with, settle
from qwend.cli.output import json_option, print_json
from qwend.cli.request import recipe_options, recipe_request
from qwend.cli.session import open_daemon
from qwend.cli.terminal import clean


@click.command(
    "lock",
    epilog="Example: qwend lock --upgrade base\n\nJSON: an object with changes, a list of sentences, and path.",
)
@click.argument("targets", metavar="[FILE]", nargs=-1)
@recipe_options
@click.option(
    "--upgrade", multiple=True, metavar="NAME", help="Take the newest revision of this model or dataset."
)
@json_option
def command(targets: tuple[str, ...], upgrade: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Pin what a recipe refers to: the revisions and files of its models and datasets go to `NAME.lock` beside it.

    `up` honours the lock and works offline from it; without --upgrade nothing that is pinned moves. The digests of the
    images of its steps are recorded as well, for every device: `up --locked` refuses others.
    """
    request = recipe_request(targets, **options, upgrade=list(upgrade) or None)
    with progress.display() as shown:
        end = progress.follow(open_daemon().stream("POST", "/v1/lock", request), shown)
    if as_json:
        print_json({"changes": end.get("changes") or [], "path": end.get("path")})
    else:
        same = f"{end['path']} is up to date" if end.get("path") else "nothing to pin"
        for change in end.get("changes") or [same]:
            click.echo(clean(change, lines=False))
    exit_with(settle(end))
